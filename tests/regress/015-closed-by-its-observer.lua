-- tests/regress/015-closed-by-its-observer.lua: a sim was closed, restarted or cut by the function that observes it, in the middle
-- of the step it was told of, and went on with memory that was gone.
local K = require "kit"
local moonpool = require "moonpool"

describe("the observer of a sim", function()
  after_each(K.clean)

  local function observed(deed)
    local sim = K.sim()
    local pool = K.pool_of({ sim }, { unreachable_ms = 100 })
    local said
    sim:observe(function()
      if not said then said = table.pack(pcall(deed, sim)) end
    end)
    local job = pool:submit(K.picture())
    K.till("it was called", function() return said end)
    return said, job, sim
  end

  it("may close it: it goes when the step is done", function()
    local said, job, sim = observed(function(sim) sim:close() end)
    assert.is_true(said[1])
    job:cancel()
    K.ended(job)
    assert.error_matches(function() sim:stall(1) end, "closed")
  end)

  it("may not restart it, nor cut its sockets; a task may", function()
    for _, name in ipairs { "restart", "drop" } do
      local said, job, sim = observed(function(sim) sim[name](sim) end)
      assert.is_false(said[1])
      assert.matches("not from inside the sim's observer", said[2])
      moonpool.spawn(function() sim[name](sim) end):wait()
      assert.equal("completed", K.ended(job).status)
    end
  end)
end)
