-- tests/regress/004-closing-pool.lua: whoever waited for a job when the pool was closed waited for ever.
local moonpool = require "moonpool"
local H = require "helper"

describe("closing a pool", function()
  local wf = assert(moonpool.workflow.from(H.text_to_image))

  it("gives every waiter a result, also when draining takes too long", function()
    local sim <close> = assert(moonpool.sim { costs = { KSampler = 60000 } })
    local pool = moonpool.pool { log_level = "silent" }
    assert(pool:add_client(sim.url))
    assert(pool:init())
    local job = assert(pool:submit(wf))
    local waiting = moonpool.spawn(function() return job:wait() end)
    pool:shutdown { drain = true, timeout_ms = 50 }
    local result = waiting:wait()
    assert.equal("canceled", result.status)
  end)

  it("gives a result to those who wait for jobs that were never sent", function()
    local pool = moonpool.pool { log_level = "silent" }
    local job = assert(pool:submit(wf))
    local waiting = moonpool.spawn(function() return job:wait() end)
    moonpool.sleep(1)
    pool:shutdown()
    assert.equal("canceled", waiting:wait().status)
  end)
end)
