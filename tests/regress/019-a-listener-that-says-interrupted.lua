-- tests/regress/019-a-listener-that-says-interrupted.lua: an error of a listener in which the word "interrupted!" stood was taken for
-- Ctrl-C and ended the script, also when the word came from a server; an error whose words cannot be had left every
-- waiter asleep.
local K = require "kit"

describe("an error of a listener", function()
  after_each(K.clean)

  local function completes_with(raise)
    local pool = K.pool_of { K.sim() }
    pool:on("job:completed", raise)
    K.completed(pool:submit(K.picture()))
    local n = 0
    pool:submit(K.picture())
    for r in pool:results() do n = n + (r.status == "completed" and 1 or 0) end
    assert.equal(1, n)
  end

  it("that speaks of interruption is one of the listener's", function()
    completes_with(function() error "the picture was interrupted!" end)
    completes_with(function() error("an execution was interrupted!", 0) end)
    completes_with(function() error "interrupted! but only by a word" end)
  end)

  it("whose words cannot be had wakes who waits all the same", function()
    completes_with(function() error(setmetatable({}, { __tostring = function() error "no" end })) end)
    completes_with(function() error(setmetatable({}, { __tostring = function() return 7 end })) end)
    completes_with(function() error(nil) end)
  end)

  it("that is lua's own word at Ctrl-C ends the wait", function()
    local pool = K.pool_of { K.sim() }
    pool:on("job:completed", function() error("interrupted!", 0) end)
    assert.has_error(function() pool:submit(K.picture()):wait(30000) end, "interrupted!")
  end)
end)
