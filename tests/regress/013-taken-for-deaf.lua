-- tests/regress/013-taken-for-deaf.lua: the status of a prompt came before the reply to its POST, the prompt waited behind
-- another for more than five seconds, and the socket, on which messages of the other went on, counted as deaf.
local K = require "kit"

describe("a prompt that waits for long behind another", function()
  after_each(K.clean)

  it("is no sign of a deaf socket", function()
    local pool, c = K.pool_of { K.sim { step_ms = 300 } }          -- 20 steps: six seconds
    local states = K.events(pool, "client:state")
    local first, second = pool:submit(K.picture(1):input("3", "steps", 20)), pool:submit(K.picture(2):input("3", "steps", 1))
    assert.is_true(K.completed(first).profile.exact)
    assert.is_true(K.completed(second).profile.exact)
    for _, e in ipairs(states) do assert.is_nil(e.problem) end
    assert.is_true(c.online)
  end)
end)
