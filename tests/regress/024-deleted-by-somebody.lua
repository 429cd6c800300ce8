-- tests/regress/024-deleted-by-somebody.lua: somebody deleted a prompt of ours from a queue; as long as others were sent there nobody
-- looked, because each new one put the next look off.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a prompt that somebody deletes", function()
  after_each(K.clean)

  scripted("is missed while its client still works", function()
    local s = K.server { hold = "running" }
    local pool, c = K.pool_of({ s }, { poll_ms = 400, settle_ms = 0 })
    local retried = K.events(pool, "job:retrying")
    local first, second = pool:submit(K.picture(1)), pool:submit(K.picture(2))
    K.till("one runs, one waits", function() return first.status == "running" and second.status == "assigned" and #s:prompts() == 2 end)
    K.till("its POST was answered", function() return c:queue() and second.prompt_id end)
    assert(c:post("/queue", { delete = { second.prompt_id } }))
    local seed, jobs = 2, { first }
    K.till("it is missed", function()                              -- meanwhile there always is another that runs, and one that waits here
      local last = jobs[#jobs]
      if last.status == "running" or last.ended then
        seed = seed + 1
        jobs[#jobs + 1] = pool:submit(K.picture(seed))
        s:go()
      end
      return retried[1]
    end)
    assert.equal(second.id, retried[1].job_id)
    s:set { hold = "" }
    s:go()
    assert.equal(1, K.completed(second).attempts)
    for _, job in ipairs(jobs) do K.completed(job) end
  end)
end)
