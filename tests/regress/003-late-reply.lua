-- tests/regress/003-late-reply.lua: a POST whose reply is late on a kept-alive connection was taken as never sent,
-- and the prompt ran twice.
local moonpool = require "moonpool"
local H = require "helper"

describe("a reply that comes too late on a reused connection", function()
  it("does not make the prompt run twice", function()
    local sim <close> = assert(moonpool.sim { speed = 100 })
    local pool <close> = moonpool.pool { log_level = "silent", request_timeout_ms = 300, reconnect_base_ms = 50 }
    assert(pool:add_client(sim.url))
    assert(pool:init())
    local wf = assert(moonpool.workflow.from(H.text_to_image))
    assert.equal("completed", pool:submit(wf):wait().status)      -- opens the connection
    sim:stall(800)
    local result = pool:submit(wf:clone():input("3", "seed", 2)):wait()
    assert.equal("completed", result.status)
    assert.equal(1, result.attempts)
    assert.equal(2, sim:record().prompts)
  end)
end)
