-- tests/regress/005-poisonous-value.lua: one job with a value that no server takes made every other job of the same
-- structural hash fail, because the hash does not hold such values but the block was by hash.
local moonpool = require "moonpool"
local H = require "helper"

describe("a job with a wrong value", function()
  it("fails alone; jobs of the same structure go on", function()
    local a <close> = assert(moonpool.sim { speed = 200 })
    local b <close> = assert(moonpool.sim { speed = 200 })
    local pool <close> = moonpool.pool { log_level = "silent" }
    assert(pool:add_client(a.url))
    assert(pool:add_client(b.url))
    assert(pool:init())
    local wf = assert(moonpool.workflow.from(H.text_to_image))
    local wrong
    for i = 1, 20 do
      local job = assert(pool:submit(wf:clone():input("3", "seed", i):input("3", "sampler_name", i == 5 and "eulr" or "euler")))
      if i == 5 then wrong = job.id end
    end
    for result in pool:results() do
      assert.equal(result.job_id == wrong and "failed" or "completed", result.status, tostring(result.error))
      if result.job_id == wrong then
        assert.equal("client_incompatible", result.error.kind)
        assert.matches("eulr", result.error.message)
      end
    end
  end)

  it("a missing model still blocks its hash on that client only", function()
    local a <close> = assert(moonpool.sim { speed = 200 })
    local b <close> = assert(moonpool.sim { speed = 200, any_node = true })
    local pool <close> = moonpool.pool { log_level = "silent" }
    assert(pool:add_client(a.url, { name = "a", priority = 5 }))
    assert(pool:add_client(b.url, { name = "b" }))
    assert(pool:init())
    local wf = assert(moonpool.workflow.from(H.text_to_image)):input("4", "ckpt_name", "mine.safetensors")
    for i = 1, 4 do assert(pool:submit(wf:clone():input("3", "seed", i))) end
    for result in pool:results() do
      assert.equal("completed", result.status)
      assert.equal("b", result.client)
    end
  end)
end)
