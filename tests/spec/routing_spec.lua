-- Which client runs a job, and when: what the pool's user may say about it, at any time.
local K = require "kit"
local moonpool = require "moonpool"

after_each(K.clean)

-- Runs one picture on this client only, so that it is warm and its usual time is known.
local function train(pool, client, seed)
  local paused = {}
  for _, c in ipairs(pool:clients()) do
    if c ~= client then
      c:pause()
      paused[#paused + 1] = c
    end
  end
  assert(K.completed(pool:submit(K.picture(seed or 900))).client == client.name)
  for _, c in ipairs(paused) do c:resume() end
end

describe("a client that is added", function()
  it("takes what waits", function()
    local a, b = K.wedged(), K.sim()
    local pool = K.pool_of { { a, { slots = 1 } } }
    pool:submit(K.picture(1))
    local second = pool:submit(K.picture(2))
    K.till("the first one is there", function() return a:record().waiting == 1 end)
    assert.equal("pending", second.status)
    pool:add_client(b.url, { name = "b" })
    assert.equal("b", K.completed(second).client)
  end)

  it("under the same address once more after it was removed runs jobs again", function()
    local s = K.sim()
    local pool, c = K.pool_of { s }
    K.completed(pool:submit(K.picture(1)))
    assert.is_true(pool:remove_client(c))
    local again = assert(pool:add_client(s.url))
    assert.not_equal(c, again)
    K.completed(pool:submit(K.picture(2)))
    assert.equal(2, s:record().prompts)
  end)

  it("has a client id of its own, also on the same host", function()
    local _, c, d = K.pool_of { K.sim(), K.sim() }
    assert.is_string(c.client_id)
    assert.not_equal(c.client_id, d.client_id)
  end)
end)

describe("a client that is removed", function()
  it("gives its running job to another, which gives its pictures, and is no attempt", function()
    local pool, a, _, ca = K.pair(nil, K.sim { step_ms = 30 })
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    assert.is_true(pool:remove_client(ca))
    local r = K.completed(job)
    assert.equal("b", r.client)
    assert.equal(1, r.attempts)
    assert.equal(1, #r.images)
    K.till("nothing of ours is left there", function() return a:record().waiting == 0 end)
    assert.equal(1, a:record().interrupted)
    assert.equal("b", K.completed(pool:submit(K.picture(2))).client)
  end)

  it("may be named by object, name or address, or remove itself", function()
    local pool, a, b, c = K.pool_of { { K.sim(), { name = "a" } }, K.sim(), K.sim() }
    local url = b.url
    assert.is_true(pool:remove_client "a")
    assert.is_true(pool:remove_client(url))
    assert.is_true(c:remove())
    assert.same({}, pool:clients())
    assert.has_error(function() return a.name end)
    assert.is_false(pool:remove_client "a")
  end)

  describe("with drain", function()
    it("finishes what runs there, takes nothing new, and goes", function()
      local pool, a, _, ca = K.pair(nil, K.sim { step_ms = 30 })
      local job = pool:submit(K.picture())
      K.till("it runs", function() return job.status == "running" end)
      assert.is_false(ca.draining)
      local removal = moonpool.spawn(function() return pool:remove_client(ca, { drain = true }) end)
      K.till("it drains", function() return ca.draining end)
      assert.equal("b", K.completed(pool:submit(K.two_outputs())).client)
      local r = K.completed(job)
      assert.equal("a", r.client)
      assert.equal(1, r.attempts)
      K.till("it is gone", function() return not pool:client "a" end)
      assert.is_true(removal:wait(30000))
      assert.same({ 1, 0 }, { a:record().prompts, a:record().interrupted })
    end)

    it("goes when nothing is there", function()
      local pool, _, _, ca = K.pair()
      local removal = moonpool.spawn(function() return ca:remove { drain = true } end)
      K.till("it is gone", function() return not pool:client "a" end)
      assert.is_true(removal:wait(30000))
      assert.equal("b", K.completed(pool:submit(K.picture())).client)
    end)

    it("leaves the jobs of the whole pool completing", function()
      local pool, a, b, ca = K.pair()
      local jobs = {}
      for i = 1, 10 do jobs[i] = pool:submit(K.picture(i)) end
      K.till("some have ended", function() return pool:stats().completed >= 2 end)
      moonpool.spawn(function() ca:remove { drain = true } end)
      for _, j in ipairs(jobs) do assert.equal(1, K.completed(j).attempts) end
      K.till("it is gone", function() return not pool:client "a" end)
      assert.equal(10, a:record().prompts + b:record().prompts)
    end)

    it("names an option that is unknown", function()
      local pool, _, _, ca = K.pair()
      assert.error_matches(function() pool:remove_client(ca, { drained = true }) end, "drained")
    end)
  end)
end)

describe("a client that is paused", function()
  it("gets no prompt, until it is resumed", function()
    local pool, a, _, ca, cb = K.pair()
    assert.is_false(ca.paused)
    ca:pause()
    assert.is_true(ca.paused)
    for i = 1, 4 do assert.equal("b", K.completed(pool:submit(K.picture(i))).client) end
    assert.equal(0, a:record().prompts)
    ca:resume()
    assert.is_false(ca.paused)
    cb:pause()
    assert.equal("a", K.completed(pool:submit(K.picture(5))).client)
  end)

  it("finishes what runs there", function()
    local pool, a, _, ca = K.pair(nil, K.sim { step_ms = 20 })
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    ca:pause()
    assert.equal("a", K.completed(job).client)
    assert.equal(0, a:record().interrupted)
  end)

  it("counts as there: a job that only it could run waits beyond no_client_ms", function()
    local pool, c = K.pool_of({ K.sim() }, { no_client_ms = 20 })
    c:pause()
    local job = pool:submit(K.picture())
    local r, err = job:wait(200)
    assert.is_nil(r)
    assert.equal("timeout", err.kind)
    c:resume()
    K.completed(job)
  end)

  it("before it is connected stays paused when it comes online", function()
    local s = K.sim()
    local pool = K.pool()
    local c = pool:add_client(s.url)
    c:pause()
    assert(pool:init())
    local job = pool:submit(K.picture())
    K.turns()
    assert.equal("pending", job.status)
    assert.equal(0, s:record().prompts)
    c:resume()
    K.completed(job)
  end)

  it("stays paused over a lost connection", function()
    local pool, a, b, ca = K.pair()
    ca:pause()
    a:drop()
    K.till("it is offline", function() return not ca.online end)
    K.till("it is back", function() return ca.online end)
    assert.is_true(ca.paused)
    K.completed(pool:submit(K.picture()))
    assert.same({ 0, 1 }, { a:record().prompts, b:record().prompts })
  end)
end)

describe("a pool that is paused", function()
  it("sends nothing, and takes jobs", function()
    local s = K.sim()
    local pool = K.pool_of { s }
    assert.is_false(pool:stats().paused)
    pool:pause()
    assert.is_true(pool:stats().paused)
    local jobs = { pool:submit(K.picture(1)), pool:submit(K.picture(2)) }
    K.turns()
    assert.equal(2, pool:stats().pending)
    assert.equal("pending", jobs[1].status)
    assert.equal(0, s:record().prompts)
    pool:resume()
    assert.is_false(pool:stats().paused)
    for _, j in ipairs(jobs) do K.completed(j) end
  end)

  it("finishes what runs", function()
    local pool = K.pool_of { K.sim { step_ms = 20 } }
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    pool:pause()
    K.completed(job)
  end)

  it("does not fail jobs for want of a client", function()
    local pool = K.pool_of({ K.sim() }, { no_client_ms = 20 })
    pool:pause()
    local job = pool:submit(K.picture())
    assert.is_nil((job:wait(200)))
    pool:resume()
    K.completed(job)
  end)

  it("lets jobs be canceled", function()
    local pool = K.pool_of { K.sim() }
    pool:pause()
    local job = pool:submit(K.picture())
    assert.is_true(job:cancel())
    assert.equal("canceled", K.ended(job).status)
  end)
end)

describe("a client's priority", function()
  for _, policy in ipairs { "default", "first_free" } do
    it("decides between idle ones (" .. policy .. ")", function()
      local low, high, middle = K.sim(), K.sim(), K.sim()
      local pool = K.pool_of({ { low, { priority = 1 } }, { high, { name = "high", priority = 3 } }, { middle, { priority = 2 } } }, { policy = policy })
      assert.equal("high", K.completed(pool:submit(K.picture())).client)
    end)

    it("gives nobody a second prompt before everybody has a first (" .. policy .. ")", function()
      local pool, _, _, ca, cb = K.pair({ policy = policy, take_backs = 0 }, K.wedged(), K.wedged())
      for i = 1, 2 do pool:submit(K.picture(i)) end
      K.till("both are at servers", function() return pool:stats().assigned == 2 end)
      assert.same({ 1, 1 }, { ca.queued, cb.queued })
    end)
  end
end)

describe("priority_overrides", function()
  for _, policy in ipairs { "default", "first_free" } do
    it("by name hold for their job only (" .. policy .. ")", function()
      local pool = K.pair { policy = policy }
      assert.equal("b", K.completed(pool:submit(K.picture(), { priority_overrides = { b = 9 } })).client)
      assert.equal("a", K.completed(pool:submit(K.other_model())).client)
    end)

    it("by address (" .. policy .. ")", function()
      local pool, a, b = K.pair { policy = policy }
      assert.equal("b", K.completed(pool:submit(K.picture(), { priority_overrides = { [b.url] = 9, [a.url] = 6 } })).client)
    end)

    it("may lower a client (" .. policy .. ")", function()
      local pool = K.pair { policy = policy }
      assert.equal("b", K.completed(pool:submit(K.picture(), { priority_overrides = { a = 0 } })).client)
    end)
  end

  it("do not change the client's own", function()
    local pool, _, _, ca, cb = K.pair()
    K.completed(pool:submit(K.picture(), { priority_overrides = { b = 9 } }))
    assert.same({ 5, 1 }, { ca.priority, cb.priority })
  end)

  it("that are wrong are named", function()
    local pool = K.pool()
    assert.error_matches(function() pool:submit(K.picture(), { priority_overrides = 5 }) end, "priority_overrides")
    assert.error_matches(function() pool:submit(K.picture(), { priority_overrides = { b = "high" } }) end, "priority_overrides")
  end)
end)

describe("preferred_clients", function()
  it("go before clients of higher priority, by name, address or object", function()
    for _, which in ipairs { "name", "url", "object" } do
      local pool, _, b, _, cb = K.pair()
      local by = { name = "b", url = b.url, object = cb }
      assert.equal("b", K.completed(pool:submit(K.picture(), { preferred_clients = { by[which] } })).client)
    end
  end)

  it("go before the client that is warm", function()
    local pool, _, _, ca = K.pair()
    train(pool, ca)
    assert.equal("b", K.completed(pool:submit(K.picture(1), { preferred_clients = { "b" } })).client)
  end)

  it("are a wish: when they are full, another one runs the job", function()
    local pool, _, b, ca, cb = K.pair({ take_backs = 0 }, nil, K.wedged())
    ca:pause()
    for i = 1, cb.slots do pool:submit(K.picture(i)) end
    K.till("b is full", function() return b:record().waiting == cb.slots end)
    ca:resume()
    assert.equal("a", K.completed(pool:submit(K.picture(8), { preferred_clients = { "b" } })).client)
  end)

  it("are a wish: when they are away, another one runs the job", function()
    local pool = K.pool()
    pool:add_client(K.nowhere(), { name = "away" })
    pool:add_client(K.sim().url, { name = "here" })
    assert(pool:init())
    assert.equal("here", K.completed(pool:submit(K.picture(), { preferred_clients = { "away", "never heard of" } })).client)
  end)

  it("that are wrong are named", function()
    local pool = K.pool()
    assert.error_matches(function() pool:submit(K.picture(), { preferred_clients = "b" }) end, "preferred_clients")
    assert.error_matches(function() pool:submit(K.picture(), { preferred_clients = { 5 } }) end, "preferred_clients")
  end)
end)

describe("excluded_clients", function()
  it("never run the job, by name, address or object", function()
    for _, which in ipairs { "name", "url", "object" } do
      local pool, a, _, ca = K.pair()
      local by = { name = "a", url = a.url, object = ca }
      for i = 1, 3 do assert.equal("b", K.completed(pool:submit(K.picture(i), { excluded_clients = { by[which] } })).client) end
      assert.equal(0, a:record().prompts)
      assert.equal("a", K.completed(pool:submit(K.other_model())).client)
    end
  end)

  it("are kept from the job also when nobody else is free", function()
    local pool, a, b = K.pair({ take_backs = 0 }, nil, K.wedged())
    local o = { excluded_clients = { "a" } }
    local jobs = {}
    for i = 1, 3 do jobs[i] = pool:submit(K.picture(i), o) end
    K.till("b is full", function() return b:record().waiting == 2 end)
    K.completed(pool:submit(K.two_outputs()))
    assert.equal(1, a:record().prompts)
    assert.equal("pending", jobs[3].status)
  end)

  it("are kept from its retries", function()
    local pool, a, b = K.pair()
    b:fail { class = "KSampler", times = 2 }
    local r = K.completed(pool:submit(K.picture(), { excluded_clients = { "a" } }))
    assert.equal("b", r.client)
    assert.equal(3, r.attempts)
    assert.same({ 0, 3 }, { a:record().prompts, b:record().prompts })
  end)

  it("when they are all there are, fail the job after no_client_ms and are named", function()
    local pool = K.pool_of({ { K.sim(), { name = "only" } } }, { no_client_ms = 1 })
    local r = K.ended(pool:submit(K.picture(), { excluded_clients = { "only" } }))
    assert.equal("failed", r.status)
    assert.equal("no_clients", r.error.kind)
    assert.matches("only", r.error.message)
    assert.matches("exclude", r.error.message)
  end)

  it("leave the job to one that is added later", function()
    local pool = K.pool_of { { K.sim(), { name = "a" } } }
    local job = pool:submit(K.picture(), { excluded_clients = { "a" } })
    K.turns()
    assert.equal("no_clients", job.status)
    pool:add_client(K.sim().url, { name = "b" })
    assert.equal("b", K.completed(job).client)
  end)

  it("are stronger than preferred_clients", function()
    local pool = K.pair()
    assert.equal("a", K.completed(pool:submit(K.picture(), { preferred_clients = { "b" }, excluded_clients = { "b" } })).client)
  end)

  it("that are wrong are named", function()
    local pool = K.pool()
    assert.error_matches(function() pool:submit(K.picture(), { excluded_clients = "b" }) end, "excluded_clients")
    assert.error_matches(function() pool:submit(K.picture(), { excluded_clients = { true } }) end, "excluded_clients")
  end)
end)

describe("a job's priority", function()
  -- Submits jobs of these priorities to a pool that is paused.
  local function waiting(priorities)
    local pool = K.pool_of { { K.sim(), { slots = 1 } } }
    pool:pause()
    local order, jobs = K.starts(pool), {}
    for i, p in ipairs(priorities) do jobs[i] = pool:submit(K.picture(i), { priority = p }) end
    return pool, jobs, order
  end
  local function run(pool, jobs)
    pool:resume()
    for _, j in ipairs(jobs) do K.completed(j) end
  end

  it("decides which goes first, then arrival", function()
    local pool, jobs, order = waiting { 0, 7, -1, 7 }
    run(pool, jobs)
    assert.same(K.ids { jobs[2], jobs[4], jobs[1], jobs[3] }, order)
  end)

  it("can be changed while it waits", function()
    local pool, jobs, order = waiting { 0, 0, 5, 0 }
    assert.is_truthy(jobs[4]:set_priority(9))
    assert.is_truthy(jobs[3]:set_priority(-2))
    assert.equal(9, jobs[4].priority)
    assert.equal(-2, jobs[3].priority)
    run(pool, jobs)
    assert.same(K.ids { jobs[4], jobs[1], jobs[2], jobs[3] }, order)
  end)

  it("keeps its place by arrival when it is changed to what others have", function()
    local pool, jobs, order = waiting { 3, 0, 3 }
    jobs[2]:set_priority(3)
    run(pool, jobs)
    assert.same(K.ids { jobs[1], jobs[2], jobs[3] }, order)
  end)

  it("cannot be changed once it was sent, or has ended", function()
    local pool = K.pool_of { K.wedged() }
    local job = pool:submit(K.picture())
    K.till("it is sent", function() return job.status == "assigned" end)
    assert.is_falsy(job:set_priority(3))
    job:cancel()
    assert.is_falsy(job:set_priority(3))
    assert.equal(0, job.priority)
  end)

  it("is a number", function()
    local pool = K.pool()
    local job = pool:submit(K.picture())
    assert.has_error(function() job:set_priority "high" end)
    assert.has_error(function() job:set_priority() end)
    assert.has_error(function() job:set_priority(0 / 0) end)
    assert.equal(0, job.priority)
  end)
end)

describe("delay_ms", function()
  it("holds the job back, and others go before it", function()
    local pool = K.pool_of { K.sim() }
    local order = K.starts(pool)
    local late = pool:submit(K.picture(1), { delay_ms = 1000, priority = 9 })
    local soon = pool:submit(K.picture(2))
    assert.equal(1, pool:stats().delayed)
    assert.equal("pending", late.status)
    K.completed(soon)
    local r = K.completed(late)
    assert.same(K.ids { soon, late }, order)
    assert.equal(0, pool:stats().delayed)
    assert.is_true(r.profile.queueTime >= 999)
    assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
  end)

  it("is no bar to canceling", function()
    local pool = K.pool_of { K.sim() }
    local job = pool:submit(K.picture(), { delay_ms = 3600000 })
    assert.is_true(job:cancel())
    assert.equal("canceled", K.ended(job).status)
    assert.equal(0, pool:stats().delayed)
    assert.equal(0, pool:stats().unfinished)
  end)

  it("does not count against no_client_ms", function()
    local pool = K.pool { no_client_ms = 1 }
    local job = pool:submit(K.picture(), { delay_ms = 3600000 })
    assert.is_nil((job:wait(100)))
    assert.is_false(job.ended)
  end)

  it("of nothing is no delay, and a negative one is refused", function()
    local pool = K.pool_of { K.sim() }
    K.completed(pool:submit(K.picture(), { delay_ms = 0 }))
    assert.error_matches(function() pool:submit(K.picture(), { delay_ms = -1 }) end, "delay_ms")
  end)
end)

describe("job_id", function()
  it("is the job's name everywhere", function()
    local pool = K.pool_of { K.sim() }
    local seen = K.events(pool, "job:queued", "job:started", "job:completed")
    local job = pool:submit(K.picture(), { job_id = "order-7" })
    assert.equal("order-7", job.id)
    assert.equal(job, pool:job "order-7")
    local r = K.completed(job)
    assert.equal("order-7", r.job_id)
    assert.equal(3, #seen)
    for _, e in ipairs(seen) do assert.equal("order-7", e.job_id) end
    for result in pool:results() do assert.equal("order-7", result.job_id) end
  end)

  it("that is there already gives the first job, whatever else is said", function()
    local s = K.sim()
    local pool = K.pool_of { s }
    local job = pool:submit(K.picture(), { job_id = "once" })
    assert.equal(job, pool:submit(K.two_outputs(), { job_id = "once", priority = 9 }))
    assert.equal(0, job.priority)
    assert.equal(1, pool:stats().unfinished)
    local r = K.completed(job)
    assert.is_nil(r.outputs["10"])
    local again = pool:submit(K.picture(), { job_id = "once" })
    assert.equal(job, again)
    assert.equal(r.prompt_id, K.completed(again).prompt_id)
    assert.equal(1, s:record().prompts)
  end)

  it("of two pools are two jobs", function()
    local s = K.sim()
    local one, two = K.pool_of { s }, K.pool_of { s }
    K.completed(one:submit(K.picture(1), { job_id = "same" }))
    K.completed(two:submit(K.picture(2), { job_id = "same" }))
    assert.equal(2, s:record().prompts)
  end)

  it("may be any text", function()
    local pool = K.pool_of { K.sim() }
    for _, id in ipairs { "../../etc/passwd", "ünï", "a b\n", "100000001", ("x"):rep(100) } do
      local job = pool:submit(K.picture(), { job_id = id })
      assert.equal(id, job.id)
      assert.equal(id, K.completed(pool:job(id)).job_id)
    end
  end)

  it("of its own job is found by pool:job too, and an unknown one is nil", function()
    local pool = K.pool_of { K.sim() }
    local job = pool:submit(K.picture())
    assert.equal(job, pool:job(job.id))
    assert.is_nil(pool:job "no such job")
    K.completed(job)
  end)

  it("is a text that is not empty", function()
    local pool = K.pool()
    assert.error_matches(function() pool:submit(K.picture(), { job_id = 7 }) end, "job_id")
    assert.error_matches(function() pool:submit(K.picture(), { job_id = "" }) end, "job_id")
  end)
end)

describe("submit_variants", function()
  local one, two = K.picture(), K.two_outputs()

  it("runs the variant whose client is there", function()
    local pool = K.pool()
    pool:add_client(K.nowhere(), { name = "away", affinity = { one } })
    pool:add_client(K.sim().url, { name = "here", affinity = { two } })
    assert(pool:init())
    local r = K.completed(pool:submit_variants { one, two })
    assert.equal("here", r.client)
    assert.equal(two.structure_hash, r.workflow.structure_hash)
    assert.is_table(r.outputs["10"])
  end)

  it("runs the variant of the client with the top priority", function()
    for _, top in ipairs { 1, 2 } do
      local pool = K.pool_of {
        { K.sim(), { name = "one", affinity = { one }, priority = top == 1 and 9 or 1 } }, { K.sim(), { name = "two", affinity = { two }, priority = 5 } },
      }
      local r = K.completed(pool:submit_variants { one, two })
      assert.equal(top == 1 and "one" or "two", r.client)
      assert.equal((top == 1 and one or two).structure_hash, r.workflow.structure_hash)
    end
  end)

  it("is open to every variant as long as it waits", function()
    local a = K.wedged()
    local pool = K.pool_of({ { a, { affinity = { one }, slots = 1 } } }, { take_backs = 0 })
    pool:submit(one)
    K.till("a is full", function() return a:record().waiting == 1 end)
    local job = pool:submit_variants { one, two }
    K.turns()
    assert.equal("pending", job.status)
    pool:add_client(K.sim().url, { name = "b", affinity = { two } })
    local r = K.completed(job)
    assert.equal("b", r.client)
    assert.equal(two.structure_hash, r.workflow.structure_hash)
  end)

  it("is open to every variant again after a failure", function()
    local a = K.sim()
    a:fail { class = "KSampler", times = 100 }
    local pool = K.pool_of { { a, { name = "a", affinity = { one }, priority = 5 } }, { K.sim(), { name = "b", affinity = { two } } } }
    local r = K.completed(pool:submit_variants { one, two })
    assert.equal("b", r.client)
    assert.equal(2, r.attempts)
    assert.equal(two.structure_hash, r.workflow.structure_hash)
  end)

  it("runs the variant whose model is there", function()
    local s = K.sim()
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit_variants { K.picture():input("4", "ckpt_name", "not-here.safetensors"), two })
    assert.equal(two.structure_hash, r.workflow.structure_hash)
    assert.equal(1, r.attempts)
    assert.equal(1, s:record().prompts)
  end)

  it("fails when no variant can run anywhere, and says why", function()
    local pool = K.pool_of({ K.sim() }, { no_client_ms = 50 })
    local r = K.ended(pool:submit_variants { K.picture():input("4", "ckpt_name", "x.safetensors"), K.two_outputs():input("4", "ckpt_name", "y.safetensors") })
    assert.equal("failed", r.status)
    assert.is_true(r.error.kind == "client_incompatible" or r.error.kind == "no_clients")
    assert.matches("[xy]%.safetensors", r.error.message)
  end)

  it("has the profile, the seeds and the names of the variant that was sent", function()
    local pool = K.pool()
    pool:add_client(K.nowhere(), { affinity = { one } })
    pool:add_client(K.sim().url, { affinity = { two } })
    assert(pool:init())
    local second = K.two_outputs():input("3", "seed", -1):output("preview", "10")
    local r = K.completed(pool:submit_variants { K.picture(), second })
    assert.equal(8, r.profile.summary.totalNodes)
    assert.equal(r.auto_seeds[1].seed, r.workflow:input("3", "seed"))
    assert.same(r.outputs["10"], r.outputs.preview)
  end)

  it("takes the options of submit", function()
    local pool = K.pair()
    local job = pool:submit_variants({ one, two }, { job_id = "v", metadata = { a = 1 }, excluded_clients = { "a" }, priority = 4 })
    assert.equal(4, job.priority)
    local r = K.completed(job)
    assert.same({ "v", "b", 1 }, { r.job_id, r.client, r.metadata.a })
  end)

  it("is one job: it can be canceled, and counts once", function()
    local pool = K.pool()
    local job = pool:submit_variants { one, two }
    assert.equal(1, pool:stats().unfinished)
    job:cancel()
    assert.equal("canceled", K.ended(job).status)
    assert.equal(0, pool:stats().unfinished)
  end)

  it("wants a list of workflows", function()
    local pool = K.pool()
    assert.has_error(function() pool:submit_variants {} end)
    assert.has_error(function() pool:submit_variants { one, 5 } end)
    assert.has_error(function() pool:submit_variants(one) end)
    assert.error_matches(function() pool:submit_variants({ one }, { prioritty = 1 }) end, "priority")
    assert.equal(0, pool:stats().unfinished)
  end)
end)

describe("affinity_fallback_ms", function()
  -- a claims picture() and is full; b is idle.
  local function full(options)
    options.take_backs = 0
    local a = K.wedged()
    local pool = K.pool_of({ { a, { affinity = { K.picture() }, slots = 1 } }, { K.sim(), { name = "b" } } }, options)
    pool:submit(K.picture(1))
    K.till("a is full", function() return a:record().waiting == 1 end)
    return pool
  end

  it("lets others help when the clients that claim the workflow are full for so long", function()
    local pool = full { affinity_fallback_ms = 50 }
    assert.equal("b", K.completed(pool:submit(K.picture(2))).client)
  end)

  it("lets others help when the clients that claim it are away", function()
    local pool = K.pool { affinity_fallback_ms = 50 }
    pool:add_client(K.nowhere(), { affinity = { K.picture() } })
    pool:add_client(K.sim().url, { name = "b" })
    assert(pool:init())
    assert.equal("b", K.completed(pool:submit(K.picture())).client)
  end)

  it("keeps the job for them until then", function()
    local pool = full { affinity_fallback_ms = 3600000 }
    local job = pool:submit(K.picture(2))
    K.completed(pool:submit(K.two_outputs()))
    assert.equal("pending", job.status)
  end)

  it("is off by default", function()
    local pool = full {}
    local job = pool:submit(K.picture(2))
    K.completed(pool:submit(K.two_outputs()))
    assert.is_nil((job:wait(100)))
    assert.equal("pending", job.status)
  end)
end)

describe("the policy called", function()
  it("default prefers the same workflow, then its models, then priority", function()
    local pool, a, b, c = K.pool_of { { K.sim(), { name = "a", priority = 1 } }, { K.sim(), { name = "b", priority = 2 } }, { K.sim(), { name = "c", priority = 9 } } }
    train(pool, a)
    a:pause()
    c:pause()
    assert.equal("b", K.completed(pool:submit(K.two_outputs())).client)
    a:resume()
    c:resume()
    assert.equal("a", K.completed(pool:submit(K.picture(2))).client)
    a:pause()
    assert.equal("b", K.completed(pool:submit(K.picture(3))).client)
    b:pause()
    assert.equal("c", K.completed(pool:submit(K.picture(4))).client)
    a:resume()
    b:resume()
    assert.equal("c", K.completed(pool:submit(K.other_model())).client)
  end)

  it("first_free goes by priority, then order of adding, warm or not", function()
    local pool, a, b, c = K.pool_of({ { K.sim(), { name = "a" } }, { K.sim(), { name = "b", priority = 3 } }, { K.sim(), { name = "c", priority = 3 } } }, { policy = "first_free" })
    train(pool, a)
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    b:pause()
    assert.equal("c", K.completed(pool:submit(K.picture(2))).client)
    c:pause()
    assert.equal("a", K.completed(pool:submit(K.picture(3))).client)
  end)

  it("least_busy goes to the one that will be done first", function()
    local pool, a, b, ca, cb = K.pair({ policy = "least_busy", take_backs = 0 }, K.sim { step_ms = 40 })
    train(pool, ca, 901)
    train(pool, cb, 902)
    a:wedge()
    b:wedge()
    local accepted = K.events(pool, "job:accepted")
    for i = 1, 2 do pool:submit(K.picture(i)) end
    K.till("both have one", function() return #accepted == 2 and ca.queued == 1 and cb.queued == 1 end)
    local third = pool:submit(K.picture(3))
    K.till("it is sent", function() return third.status == "assigned" end)
    assert.equal("b", third.client)
  end)

  it("round_robin takes each in turn", function()
    local pool = K.pool_of({ { K.sim(), { name = "a" } }, { K.sim(), { name = "b", priority = 7 } }, { K.sim(), { name = "c" } } }, { policy = "round_robin" })
    local turns = {}
    for i = 1, 6 do turns[i] = K.completed(pool:submit(K.picture(i))).client end
    assert.same({ "a", "b", "c", "a", "b", "c" }, turns)
  end)

  it("round_robin passes over who is paused or excluded", function()
    local pool, _, b = K.pool_of({ { K.sim(), { name = "a" } }, { K.sim(), { name = "b" } }, { K.sim(), { name = "c" } } }, { policy = "round_robin" })
    b:pause()
    local turns = {}
    for i = 1, 4 do turns[i] = K.completed(pool:submit(K.picture(i))).client end
    assert.same({ "a", "c", "a", "c" }, turns)
    assert.equal("c", K.completed(pool:submit(K.picture(5), { excluded_clients = { "a" } })).client)
  end)
end)

describe("at equal rank the job with the fewest capable clients goes first:", function()
  local function setup(options_of_general, options_of_special, affinity)
    local pool, _, _, ca = K.pair({ take_backs = 0 }, K.wedged(), K.wedged())
    if affinity then
      pool:remove_client(ca)
      ca = pool:add_client(K.wedged().url, { name = "a", priority = 5, affinity = affinity, slots = 1 })
      K.till("it is online", function() return ca.online end)
    end
    pool:pause()
    local general = pool:submit(K.two_outputs(), options_of_general)
    local special = pool:submit(K.picture(), options_of_special)
    pool:resume()
    K.till("both are sent", function() return general.status == "assigned" and special.status == "assigned" end)
    return general.client, special.client
  end

  it("by excluded_clients", function()
    local general, special = setup(nil, { excluded_clients = { "b" } })
    assert.same({ "b", "a" }, { general, special })
  end)

  it("by affinity", function()
    local general, special = setup(nil, nil, { K.picture() })
    assert.same({ "b", "a" }, { general, special })
  end)

  it("not at a lower rank", function()
    local pool = K.pair({ take_backs = 0 }, K.wedged(), K.wedged())
    pool:pause()
    local general = pool:submit(K.two_outputs(), { priority = 1 })
    pool:submit(K.picture(), { excluded_clients = { "b" } })
    pool:resume()
    K.till("it is sent", function() return general.status == "assigned" end)
    assert.equal("a", general.client)
  end)
end)

describe("a take-back", function()
  -- a is slow and has both slots full, one running; b is fast, warm, and was away until now.
  local function end_of_batch(options, job_options, version)
    local pool, a, b, ca, cb = K.pair(options, K.sim { step_ms = 60, version = version }, K.sim { version = version })
    train(pool, ca, 901)
    train(pool, cb, 902)
    local told, accepted = K.events(pool, "job:taken_back"), K.events(pool, "job:accepted")
    cb:pause()
    local jobs = { pool:submit(K.picture(1), job_options), pool:submit(K.picture(2), job_options) }
    K.till("a runs one and has taken the other", function() return jobs[1].status == "running" and #accepted == 2 end)
    local prompt = jobs[2].prompt_id
    cb:resume()
    return pool, a, b, jobs, told, ca, prompt
  end

  it("gives what only waits to an idle client", function()
    local _, a, b, jobs, told, ca, prompt = end_of_batch { take_backs = 1 }
    local r = K.completed(jobs[2])
    assert.equal("b", r.client)
    assert.equal("running", jobs[1].status)
    assert.equal("a", K.completed(jobs[1]).client)
    assert.same({ 2, 2 }, { a:record().prompts, b:record().prompts })
    assert.equal(0, a:record().interrupted)
    assert.same({ 1, jobs[2].id, "a" }, { #told, told[1] and told[1].job_id, told[1] and told[1].client })
    assert.not_equal(prompt, r.prompt_id)
    assert.is_nil(assert(ca:history())[prompt])
  end)

  for _, version in ipairs { "0.18.1", "2024-10" } do
    it("is told with client and prompt, by the id that the server has for it (" .. version .. ")", function()
      local _, a, _, jobs, told, ca, prompt = end_of_batch({ take_backs = 1 }, nil, version)
      local r = K.completed(jobs[2])
      local e = told[1]
      assert.same({ "job:taken_back", r.job_id, "a", a.url, prompt }, { e.name, e.job_id, e.client, e.client_url, e.prompt_id })
      assert.equal(ca.url, e.client_url)
      assert.not_equal(r.prompt_id, e.prompt_id)
    end)
  end

  it("gives it also when it was still being sent as the other became idle", function()
    local pool, a, _, ca, cb = K.pair({ take_backs = 1 }, K.sim { step_ms = 60 })
    train(pool, ca, 901)
    train(pool, cb, 902)
    cb:pause()
    local first = pool:submit(K.picture(1))
    K.till("it runs", function() return first.status == "running" end)
    local second = pool:submit(K.picture(2))
    assert.equal("assigned", second.status)
    cb:resume()
    assert.equal("b", K.completed(second).client)
    K.completed(first)
    assert.equal(2, a:record().prompts)
  end)

  it("is no attempt, and the profile still adds up", function()
    local _, _, _, jobs = end_of_batch({ take_backs = 1 }, { max_attempts = 1 })
    local r = K.completed(jobs[2])
    local p = r.profile
    assert.same({ "b", 1 }, { r.client, r.attempts })
    assert.near(p.totalDuration, p.queueTime + p.executionTime, 1e-6)
    assert.near(p.queueTime, p.poolQueueTime + p.uploadTime + p.serverQueueTime + p.retryTime, 1e-6)
    assert.is_true(p.retryTime > 0)
  end)

  it("happens by default", function()
    local _, _, _, jobs = end_of_batch {}
    assert.equal("b", K.completed(jobs[2]).client)
  end)

  it("is off with take_backs = 0: it runs where it was sent", function()
    local _, a, b, jobs, told = end_of_batch { take_backs = 0 }
    assert.equal("a", K.completed(jobs[2]).client)
    assert.same({ 3, 1, 0 }, { a:record().prompts, b:record().prompts, #told })
  end)

  it("goes only where the job may run", function()
    local _, a, b, jobs, told = end_of_batch({ take_backs = 1 }, { excluded_clients = { "b" } })
    assert.equal("a", K.completed(jobs[2]).client)
    assert.same({ 3, 1, 0 }, { a:record().prompts, b:record().prompts, #told })
  end)

  it("never touches a prompt that runs", function()
    local pool, a, b, ca, cb = K.pair({ take_backs = 5 }, K.sim { step_ms = 40 })
    train(pool, ca, 901)
    train(pool, cb, 902)
    cb:pause()
    local job = pool:submit(K.endless())
    K.till("it runs", function() return job.status == "running" end)
    cb:resume()
    for i = 1, 3 do K.completed(pool:submit(K.picture(i), { excluded_clients = { "a" } })) end
    assert.same({ "running", "a" }, { job.status, job.client })
    assert.same({ 2, 0, 4 }, { a:record().prompts, a:record().interrupted, b:record().prompts })
  end)

  it("leaves a batch with fewer slow runs", function()
    local slow_runs = {}
    for _, n in ipairs { 0, 1 } do
      local pool, a, _, ca, cb = K.pair({ take_backs = n }, K.sim { step_ms = 60 }, K.sim { step_ms = 4 })
      train(pool, ca, 901)
      train(pool, cb, 902)
      pool:pause()
      local jobs = {}
      for i = 1, 6 do jobs[i] = pool:submit(K.picture(i)) end
      pool:resume()
      for _, j in ipairs(jobs) do K.completed(j) end
      slow_runs[n] = a:record().prompts - 1
      K.clean()
    end
    assert.same({ [0] = 2, [1] = 1 }, slow_runs)
  end)

  it("happens to a job at most take_backs times", function()
    local pool, _, b, ca, cb = K.pair({ take_backs = 1 }, K.sim { step_ms = 60 })
    train(pool, ca, 901)
    train(pool, cb, 902)
    b:wedge()
    local told, accepted = K.events(pool, "job:taken_back"), K.events(pool, "job:accepted")
    cb:pause()
    local first, second = pool:submit(K.endless()), pool:submit(K.picture(2))
    K.till("a runs one and has taken the other", function() return first.status == "running" and #accepted == 2 end)
    cb:resume()
    K.till("b has it, and runs nothing", function() return #told == 1 and second.client == "b" and b:record().waiting == 1 end)
    local c = pool:add_client(K.sim().url, { name = "c" })
    K.till("c is online", function() return c.online end)
    K.completed(pool:submit(K.two_outputs(), { excluded_clients = { "a", "b" } }))
    K.turns()
    assert.same({ "assigned", "b", 1 }, { second.status, second.client, #told })
  end)

  it("does not happen while jobs wait in the pool", function()
    local pool, a, _, ca, cb = K.pair({ take_backs = 1 }, K.sim { step_ms = 60 })
    train(pool, ca, 901)
    train(pool, cb, 902)
    local order = K.events(pool, "job:taken_back", "job:completed")
    cb:pause()
    local first, second = pool:submit(K.picture(1)), pool:submit(K.picture(2))
    K.till("a has both", function() return first.status == "running" and second.status == "assigned" and a:record().waiting == 2 end)
    local fresh = {}
    for i = 1, 3 do fresh[i] = pool:submit(K.picture(10 + i)) end
    cb:resume()
    for _, j in ipairs(fresh) do assert.equal("b", K.completed(j).client) end
    K.completed(second)
    K.completed(first)
    local back = 0
    for i, e in ipairs(order) do
      if e.name == "job:taken_back" then back = i end
    end
    assert.is_true(back > 1)
  end)
end)
