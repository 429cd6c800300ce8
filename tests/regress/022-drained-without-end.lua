-- tests/regress/022-drained-without-end.lua: a job had gone elsewhere because its server was gone; what was left to be deleted there made
-- shutdown{drain=true} wait for a server that nobody could reach.
local K = require "kit"
local moonpool = require "moonpool"

describe("a pool that is drained while a server is gone", function()
  after_each(K.clean)

  it("does not wait for it", function()
    local a, b = K.sim { step_ms = 30 }, K.sim()
    local pool, ca = K.pool_of({ a }, { unreachable_ms = 100 })
    local job = pool:submit(K.endless())
    K.till("it runs", function() return job.status == "running" end)
    a:restart(3600000)
    pool:add_client(b.url, { name = "b" })
    assert.equal("b", K.completed(job).client)
    assert.equal(1, ca.queued)                                     -- a prompt to be deleted there
    local task = moonpool.spawn(function() pool:shutdown { drain = true } return "drained" end)
    assert.equal("drained", task:wait(30000))
  end)
end)
