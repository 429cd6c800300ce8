-- tests/regress/002-large-reply.lua: a /queue reply of more than 64 KB is parsed in the thread pool; the pool must
-- recover by it as by a small one.
local moonpool = require "moonpool"
local K = require "kit"

describe("recovery by a large reply", function()
  after_each(K.clean)

  it("finds its prompt among many of others", function()
    local sim = K.sim { step_ms = 5 }
    local function theirs(n)                                -- runs for long, and is long
      local prompt = moonpool.json.decode(K.endless():to_json())
      for i = 101, 250 do prompt[tostring(i)] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = i + n } } end
      return prompt
    end
    local pool, c = K.pool_of { sim }
    for i = 1, 12 do assert(c:post("/prompt", { client_id = "other", prompt = theirs(i) })) end
    local job = pool:submit(K.picture())
    K.till("it is there", function() return job.status == "assigned" end)
    assert.is_true(#c:get("/queue").body > 65536)
    local before = sim:record().requests
    sim:drop()
    K.till("the pool has looked for it", function() return sim:record().requests >= before + 2 and c.online end)
    local gone = {}
    local queue = assert(c:queue())
    for _, item in ipairs(queue.queue_pending) do
      if item[2] ~= job.prompt_id then gone[#gone + 1] = item[2] end
    end
    assert(c:post("/queue", { delete = gone }))
    assert(c:interrupt(queue.queue_running[1][2]))
    assert.equal(1, K.completed(job).attempts)
  end)
end)
