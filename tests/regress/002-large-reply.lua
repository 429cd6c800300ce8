-- tests/regress/002-large-reply.lua: a /queue reply of more than 64 KB is parsed in the thread pool; the pool must
-- recover by it as by a small one.
local moonpool = require "moonpool"

describe("recovery by a large reply", function()
  it("finds its prompt among many of others", function()
    local sim <close> = assert(moonpool.sim { costs = { EmptyImage = 60 }, speed = 1 })
    local function body(n)
      local prompt = {}
      for i = 1, 150 do prompt[tostring(i)] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = i + n } } end
      prompt["151"] = { class_type = "PreviewImage", inputs = { images = { "1", 0 } } }
      return prompt
    end
    local wf = assert(moonpool.workflow.from(body(0)))
    local pool <close> = moonpool.pool { log_level = "error" }
    assert(pool:add_client(sim.url))
    assert(pool:init())
    for i = 1, 12 do
      assert(moonpool.http.request { method = "POST", url = sim.url .. "/prompt", body = moonpool.json.encode { client_id = "other", prompt = body(i) } })
    end
    local job = assert(pool:submit(wf))
    local accepted = moonpool.spawn(function() while job.status == "pending" do moonpool.sleep(1) end end)
    accepted:wait()
    assert.is_true(#moonpool.http.request { url = sim.url .. "/queue" }.body > 65536)
    sim:drop()
    local result = job:wait()
    assert.equal("completed", result.status)
    assert.equal(1, result.attempts)
  end)
end)
