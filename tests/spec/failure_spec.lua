-- What goes wrong with servers, and what becomes of the jobs: failure classes, blocks, cooldown, polling, credentials,
-- and every defect of the reference that ours must not have.
local H = require "helper"
local K = require "kit"
local moonpool = require "moonpool"

local scripted = K.scripted(it, pending)

after_each(K.clean)

-- A scripted server a before a sim b, which gets what a does not take.
local function before_sim(settings, options)
  local o = { policy = K.by_priority }
  for k, v in pairs(options or {}) do o[k] = v end
  local a, b = K.server(settings), K.sim()
  local pool, ca, cb = K.pool_of({ { a, { name = "a", priority = 5 } }, { b, { name = "b" } } }, o)
  return pool, a, b, ca, cb
end

local function paths(list)
  local all = {}
  for i, r in ipairs(list) do all[i] = r.path end
  return all
end

describe("a failure of the connection", function()
  it("at the POST is no attempt", function()
    local s = K.sim()
    local pool = K.pool_of({ s }, { reconnect_base_ms = 20, settle_ms = 50 })
    s:restart(200)
    local r = K.completed(pool:submit(K.picture(), { max_attempts = 1 }))
    assert.equal(1, r.attempts)
    assert.equal(1, s:record().prompts)
  end)

  it("in mid job is no attempt", function()
    local s = K.sim { step_ms = 20 }
    local pool = K.pool_of({ s }, { reconnect_base_ms = 20, settle_ms = 50 })
    local job = pool:submit(K.picture(), { max_attempts = 1 })
    K.till("it runs", function() return job.status == "running" end)
    s:restart(100)
    local r = K.completed(job)
    assert.equal(1, r.attempts)
    assert.equal(2, #r.profile.attempts)
    assert.equal(2, s:record().prompts)
  end)
end)

describe("an invalid workflow", function()
  it("is refused once, and never tried again anywhere", function()
    local pool = K.pair()
    local retried = K.events(pool, "job:retrying")
    local r = K.ended(pool:submit(K.picture():input("3", "steps", 0)))
    assert.equal("failed", r.status)
    assert.equal("workflow_invalid", r.error.kind)
    assert.same({ 1, 0 }, { r.attempts, #retried })
  end)

  it("does not block its hash", function()
    local pool, _, _, ca, cb = K.pair()
    K.ended(pool:submit(K.picture():input("3", "steps", 0)))
    assert.same({ {}, {} }, { ca.blocked, cb.blocked })
    assert.equal("a", K.completed(pool:submit(K.picture())).client)
  end)
end)

describe("a retry", function()
  it("waits retry_delay_ms of its job, doubled each time, give or take 30 %", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 3 }
    local pool = K.pool_of({ s }, { retry_delay_ms = 3600000 })
    local told = K.events(pool, "job:retrying")
    local r = K.completed(pool:submit(K.picture(), { retry_delay_ms = 20, max_attempts = 4 }))
    assert.equal(4, r.attempts)
    assert.equal(3, #told)
    for i, e in ipairs(told) do
      local base = 20 * 2 ^ (i - 1)
      assert.is_true(e.delay_ms >= base * 0.699 and e.delay_ms <= base * 1.301, e.delay_ms)
    end
    assert.is_true(r.profile.retryTime >= 0.7 * (20 + 40 + 80) - 1)
  end)
end)

-- ---- blocks -----------------------------------------------------------------------------------------------------

for _, missing in ipairs { "model", "class" } do
  local settings = missing == "model" and { models = { "sdxl.safetensors" } } or { without = { "KSampler" } }
  local cure = missing == "model" and { models = { "sd15.safetensors", "sdxl.safetensors" } } or { without = {} }
  local word = missing == "model" and "sd15.safetensors" or "KSampler"
  local hash = K.picture().structure_hash

  describe("a " .. missing .. " that one client lacks", function()
    scripted("blocks the workflow there, with an event that says which and why", function()
      local pool, a, _, ca, cb = before_sim(settings)
      local told = K.events(pool, "client:blocked_workflow")
      assert.same({}, ca.blocked)
      local r = K.completed(pool:submit(K.picture(1)))
      assert.same({ "b", 1 }, { r.client, r.attempts })
      assert.equal(1, #told)
      assert.same({ "a", a.url, hash }, { told[1].client, told[1].client_url, told[1].structure_hash })
      assert.is_truthy(told[1].error:find(word, 1, true))
      assert.equal(1, #ca.blocked)
      assert.equal(hash, ca.blocked[1].structure_hash)
      assert.is_truthy(ca.blocked[1].reason:find(word, 1, true))
      assert.is_nil(ca.blocked[1].until_ms)
      assert.same({}, cb.blocked)
      assert.same({ cb }, pool:clients_for(K.picture()))
    end)

    scripted("is not asked for again", function()
      local pool, a = before_sim(settings)
      local told = K.events(pool, "client:blocked_workflow")
      for i = 1, 4 do assert.equal("b", K.completed(pool:submit(K.picture(i))).client) end
      assert.equal(1, #a:prompts())
      assert.equal(1, #told)
    end)

    scripted("is used again when its catalogue has it", function()
      local pool, a, _, ca = before_sim(settings, { catalogue_ms = 50 })
      local told = K.events(pool, "client:unblocked_workflow")
      assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
      a:set(cure)
      K.till("the block is lifted", function() return #told > 0 end)
      assert.same({ "a", hash }, { told[1].client, told[1].structure_hash })
      assert.same({}, ca.blocked)
      assert.equal("a", K.completed(pool:submit(K.picture(2))).client)
      assert.equal(1, #told)
    end)

    scripted("stays blocked as long as its catalogue lacks it", function()
      local pool, a, _, ca = before_sim(settings, { catalogue_ms = 50 })
      local told = K.events(pool, "client:unblocked_workflow")
      K.completed(pool:submit(K.picture(1)))
      local from = #a:seen("GET", "/object_info.*")
      K.till("its catalogue was read three times", function() return #a:seen("GET", "/object_info.*") >= from + 3 end)
      assert.equal("b", K.completed(pool:submit(K.picture(2))).client)
      assert.same({ 0, 1, 1 }, { #told, #ca.blocked, #a:prompts() })
    end)

    scripted("is looked for again when the client has been away", function()
      local pool, a, _, ca = before_sim(settings, { catalogue_ms = 0 })             -- else never
      local told = K.events(pool, "client:unblocked_workflow")
      for _ = 1, 2 do
        assert.equal("b", K.completed(pool:submit(K.picture())).client)
        local looks = #a:seen("GET", "/object_info/.*")
        a:drop()
        K.till("it was looked for", function() return #a:seen("GET", "/object_info/.*") > looks end)
      end
      K.till("it is there again", function() return ca.online end)
      assert.same({ 0, 1, 1 }, { #told, #ca.blocked, #a:prompts() })
      a:set(cure)
      a:drop()
      K.till("the block is lifted", function() return #told == 1 and ca.online end)
      assert.equal("a", K.completed(pool:submit(K.picture())).client)
    end)

    scripted("fails the job when nobody else is there, and a later one runs when it has come", function()
      local s = K.server(settings)
      local pool, c = K.pool_of({ s }, { catalogue_ms = 50 })
      local r = K.ended(pool:submit(K.picture(1)))
      assert.same({ "failed", "client_incompatible" }, { r.status, r.error.kind })
      s:set(cure)
      K.till("the block is lifted", function() return #c.blocked == 0 end)
      K.completed(pool:submit(K.picture(2)))
    end)
  end)
end

describe("a model in a folder, which clients spell with / or \\", function()
  for i, asked in ipairs { "sub/sd15.safetensors", "sub\\sd15.safetensors" } do
    scripted(("is asked for as each spells it: %d"):format(i), function()
      local slash, back = K.server { models = { "sub/sd15.safetensors" } }, K.server { models = { "sub\\sd15.safetensors" } }
      local pool, ca, cb = K.pool_of({ { slash, { name = "slash" } }, { back, { name = "back" } } })
      local told = K.events(pool, "client:blocked_workflow")
      local spelling = { slash = "sub/sd15.safetensors", back = "sub\\sd15.safetensors" }
      for k = 1, 3 do
        for name, c in K.sorted { slash = cb, back = ca } do                        -- the other one is paused
          c:pause()
          local r = K.completed(pool:submit(K.picture(10 * i + k):input("4", "ckpt_name", asked)))
          c:resume()
          assert.same({ name, spelling[name] }, { r.client, r.workflow:input("4", "ckpt_name") })
        end
      end
      for name, s in pairs { slash = slash, back = back } do
        local prompts = s:prompts()
        assert.equal(spelling[name] == asked and 3 or 4, #prompts)                 -- refused once at most, then known
        assert.equal(spelling[name], prompts[#prompts].prompt["4"].inputs.ckpt_name)
      end
      assert.same({ 0, 0, 0 }, { #told, #ca.blocked, #cb.blocked })
    end)
  end
end)

describe("a client that fails whatever it gets", function()
  local function errors(n)
    local list = {}
    for i = 1, n do list[i] = { type = "RuntimeError", message = "no" } end
    return list
  end

  scripted("does not use up the attempts of jobs that another may run, after three in a row", function()
    local a = K.server { errors = errors(6) }
    local pool = K.pool_of({ { a, { name = "a", priority = 5 } }, { K.sim(), { name = "b" } } }, { policy = K.by_priority, max_failures_before_block = 0 })
    local function run(i) return K.ended(pool:submit(K.picture(i), { max_attempts = 1 })) end
    for i = 1, 3 do assert.equal("failed", run(i).status) end
    for i = 4, 6 do
      local r = run(i)
      assert.same({ "completed", "b", 1 }, { r.status, r.client, r.attempts })
    end
    assert.equal("a", run(7).client)
    a:set { errors = errors(1) }
    assert.equal("failed", run(8).status)                                           -- it has done one well: the next is blamed on the job
  end)

  scripted("uses them up when there is no other", function()
    local a, b = K.server { errors = errors(5) }, K.sim()
    local pool, _, cb = K.pool_of({ { a, { name = "a" } }, { b, { name = "b" } } }, { max_failures_before_block = 0 })
    cb:pause()
    for i = 1, 5 do assert.equal("failed", K.ended(pool:submit(K.picture(i), { max_attempts = 1 })).status) end
    assert.equal(0, b:record().prompts)
  end)
end)

describe("a model that one client lacks", function()
  scripted("blocks no other workflow there", function()
    local pool = before_sim { models = { "sdxl.safetensors" } }
    assert.equal("b", K.completed(pool:submit(K.picture())).client)
    assert.equal("a", K.completed(pool:submit(K.other_model())).client)
  end)

  it("and all others lack too fails each of its jobs, and the others go on", function()
    local pool = K.pair()
    local bad = {}
    for i = 1, 3 do bad[i] = pool:submit(K.picture(i):input("4", "ckpt_name", "nowhere.safetensors")) end
    local good = pool:submit(K.picture(4))
    for i = 1, 3 do
      local r = K.ended(bad[i])
      assert.same({ "failed", "client_incompatible" }, { r.status, r.error.kind })
      assert.matches("nowhere.safetensors", r.error.message)
    end
    K.completed(good)
  end)
end)

-- ---- cooldown ---------------------------------------------------------------------------------------------------

describe("a client where a node failed", function()
  local function failing(times, options)
    local o = { policy = K.by_priority, cooldown_ms = 3600000 }
    for k, v in pairs(options or {}) do o[k] = v end
    local a = K.sim()
    a:fail { class = "KSampler", times = times }
    return K.pair(o, a)
  end

  it("rests from that workflow", function()
    local pool, a, _, ca = failing(1)
    local told = K.events(pool, "client:blocked_workflow")
    local r = K.completed(pool:submit(K.picture(1)))
    assert.same({ "b", 2 }, { r.client, r.attempts })
    assert.same({ 1, 1 }, { #told, #ca.blocked })
    assert.same({ "a", K.picture().structure_hash }, { told[1].client, told[1].structure_hash })
    assert.matches("it broke", told[1].error)
    assert.equal(K.picture().structure_hash, ca.blocked[1].structure_hash)
    assert.matches("it broke", ca.blocked[1].reason)
    assert.is_true(ca.blocked[1].until_ms > 0)
    for i = 2, 4 do assert.equal("b", K.completed(pool:submit(K.picture(i))).client) end
    assert.equal(1, a:record().prompts)
  end)

  it("runs other workflows meanwhile", function()
    local pool = failing(1)
    K.completed(pool:submit(K.picture()))
    assert.equal("a", K.completed(pool:submit(K.two_outputs())).client)
  end)

  it("is used again after cooldown_ms", function()
    local pool, _, _, ca = failing(1, { cooldown_ms = 100 })
    local told = K.events(pool, "client:unblocked_workflow")
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    K.till("it has rested", function() return #told > 0 end)
    assert.same({ "a", K.picture().structure_hash }, { told[1].client, told[1].structure_hash })
    assert.same({}, ca.blocked)
    assert.equal("a", K.completed(pool:submit(K.picture(2))).client)
  end)

  it("rests only after max_failures_before_block failures", function()
    local pool, a, _, ca = failing(2, { max_failures_before_block = 2 })
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    assert.same({}, ca.blocked)
    assert.equal("b", K.completed(pool:submit(K.picture(2))).client)
    assert.equal(1, #ca.blocked)
    assert.equal("b", K.completed(pool:submit(K.picture(3))).client)
    assert.equal(2, a:record().prompts)
  end)

  it("does not rest with cooldown_ms = 0", function()
    local pool, a, _, ca = failing(1, { cooldown_ms = 0 })
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    assert.same({}, ca.blocked)
    assert.equal("a", K.completed(pool:submit(K.picture(2))).client)
    assert.equal(2, a:record().prompts)
  end)

  it("does not rest when nobody else could run the job", function()
    local s = K.sim()
    s:fail { class = "KSampler", times = 2 }
    local pool = K.pool_of({ s }, { cooldown_ms = 3600000 })
    assert.equal(3, K.completed(pool:submit(K.picture(1))).attempts)
    assert.equal(1, K.completed(pool:submit(K.picture(2))).attempts)
  end)

  it("is used when the others go away", function()
    local pool, _, _, _, cb = failing(1)
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    pool:remove_client(cb)
    assert.equal("a", K.completed(pool:submit(K.picture(2))).client)
  end)
end)

describe("after memory ran out", function()
  local oom = { type = "torch.OutOfMemoryError", message = "Allocation on device", node = "3" }

  scripted("the server is told to free it before the next prompt there", function()
    local s = K.server { errors = { oom } }
    local pool = K.pool_of { s }
    local r = K.completed(pool:submit(K.picture()))
    assert.equal(2, r.attempts)
    assert.equal("out_of_memory", r.profile.attempts[1].outcome)
    assert.same({ "/prompt", "/free", "/prompt" }, paths(s:seen "POST"))
    assert.is_true(K.json.decode(s:seen("POST", "/free")[1].body).unload_models)
  end)

  scripted("of one job, another one's prompt comes after it too", function()
    local pool, a, _, _, cb = before_sim({ errors = { oom } }, { cooldown_ms = 0 })
    assert.equal("b", K.completed(pool:submit(K.picture(1))).client)
    pool:remove_client(cb)                           -- else it is first when /free takes longer than the picture
    assert.equal("a", K.completed(pool:submit(K.other_model())).client)
    assert.same({ "/prompt", "/free", "/prompt" }, paths(a:seen "POST"))
  end)

  scripted("only there: other servers and other failures are left alone", function()
    local s, t = K.server { errors = { { type = "ValueError", message = "no good", node = "3" } } }, K.server()
    local pool = K.pool_of { { s, { priority = 5 } }, t }
    K.completed(pool:submit(K.picture()))
    assert.same({ 0, 0 }, { #s:seen("POST", "/free"), #t:seen("POST", "/free") })
  end)

  it("a simulated server runs the job at the second attempt", function()
    for _, version in ipairs { "0.18.1", "2024-10" } do
      local s = K.sim { version = version }
      s:fail { class = "KSampler", times = 1, type = "torch.cuda.OutOfMemoryError", message = "CUDA out of memory" }
      local pool = K.pool_of { s }
      local r = K.completed(pool:submit(K.picture()))
      assert.same({ 2, "out_of_memory" }, { r.attempts, r.profile.attempts[1].outcome })
    end
  end)
end)

-- ---- execution_start_ms -----------------------------------------------------------------------------------------

describe("execution_start_ms", function()
  it("takes a job from a server that runs nothing", function()
    for _, where in ipairs { "pool", "job" } do
      local value = { execution_start_ms = 100 }
      local off = where == "job" and { execution_start_ms = 0, take_backs = 0 } or { execution_start_ms = 100, take_backs = 0 }
      local pool, a = K.pair(off, K.wedged())
      local r = K.completed(pool:submit(K.picture(), where == "job" and value or nil))
      assert.equal("b", r.client)
      assert.equal("timeout", r.profile.attempts[1].outcome)
      K.till("nothing of ours is left there", function() return a:record().waiting == 0 end)
    end
  end)

  it("fails the job when its attempts are used up", function()
    local pool = K.pool_of { K.wedged() }
    local r = K.ended(pool:submit(K.picture(), { execution_start_ms = 50, max_attempts = 1 }))
    assert.same({ "failed", "timeout" }, { r.status, r.error.kind })
    assert.matches("start", r.error.message)
  end)

  it("does not count while something runs there", function()
    local s = K.sim { step_ms = 10 }
    local pool = K.pool_of { s }
    local long = pool:submit(K.endless())
    K.till("it runs", function() return long.status == "running" end)
    local job = pool:submit(K.picture(2), { execution_start_ms = 100, max_attempts = 1 })
    assert.is_nil((job:wait(500)))
    assert.equal("assigned", job.status)
    long:cancel()
    assert.equal(1, K.completed(job).attempts)
    assert.equal(2, s:record().prompts)
  end)

  it("does not count while somebody else's prompt runs there", function()
    local s = K.sim { step_ms = 10 }
    local mine, theirs = K.pool_of { s }, K.pool_of { s }
    local long = theirs:submit(K.endless())
    K.till("it runs", function() return long.status == "running" end)
    local job = mine:submit(K.picture(2), { execution_start_ms = 100, max_attempts = 1 })
    assert.is_nil((job:wait(500)))
    assert.equal("assigned", job.status)
    long:cancel()
    assert.equal(1, K.completed(job).attempts)
  end)

  it("ends when execution has started: a long node is no reason", function()
    local s = K.sim { speed = 1, costs = K.costs { ms = 500, step_ms = 1 } }
    local pool = K.pool_of({ s }, { execution_start_ms = 100 })
    assert.equal(1, K.completed(pool:submit(K.picture(), { max_attempts = 1 })).attempts)
  end)

  it("of 0 is off", function()
    local pool = K.pool_of({ K.wedged() }, { execution_start_ms = 0 })
    local job = pool:submit(K.picture())
    assert.is_nil((job:wait(300)))
    assert.equal("assigned", job.status)
  end)
end)

-- ---- polling ----------------------------------------------------------------------------------------------------

describe("a server without a socket", function()
  local function polled(settings)
    local o = { ws = 404 }
    for k, v in pairs(settings or {}) do o[k] = v end
    local s = K.server(o)
    local pool = K.pool { poll_ms = 20, reconnect_base_ms = 10 }
    local c = assert(pool:add_client(s.url))
    K.till("it is polled", function() return c.online and c.polling end)
    return pool, c, s
  end

  scripted("is polled: its jobs complete, with their pictures", function()
    local pool, c, s = polled()
    assert.equal("idle", c.state)
    assert.is_nil(c.problem)
    for i = 1, 3 do
      local r = K.completed(pool:submit(K.picture(i)))
      assert.equal("a_00001_.png", r.images[1].filename)
      assert.equal(1, r.attempts)
      assert.is_false(r.profile.exact)
      assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
    end
    assert.equal(3, #s:prompts())
  end)

  scripted("that chooses its own prompt ids is polled too", function()
    local pool = polled { own_ids = false, version = "unknown" }
    K.completed(pool:submit(K.picture()))
  end)

  scripted("tells of failures through its history", function()
    local pool = polled { errors = { { type = "ValueError", message = "no good", node = "3" } } }
    local r = K.ended(pool:submit(K.picture(), { max_attempts = 1 }))
    assert.same({ "failed", "node_error", "3" }, { r.status, r.error.kind, r.error.node })
    assert.matches("no good", r.error.message)
  end)

  scripted("shows what runs and what waits through its queue", function()
    local pool, _, s = polled { hold = "running" }
    local first = pool:submit(K.picture(1))
    K.till("it is seen to run", function() return first.status == "running" end)
    local second = pool:submit(K.picture(2))
    K.till("the other waits", function() return second.status == "assigned" end)
    s:set { hold = "" }
    K.completed(first)
    K.completed(second)
  end)

  scripted("lets jobs be canceled, running and waiting", function()
    local pool, c, s = polled { hold = "running" }
    local first = pool:submit(K.picture(1))
    K.till("it is seen to run", function() return first.status == "running" end)
    local second = pool:submit(K.picture(2))
    K.till("both are there", function() return #s:prompts() == 2 and second.status == "assigned" end)
    second:cancel()
    first:cancel()
    assert.equal("canceled", K.ended(first).status)
    assert.equal("canceled", K.ended(second).status)
    K.till("the server is empty", function()
      local q = assert(c:queue())
      return #q.queue_running + #q.queue_pending == 0
    end)
    local stopped = {}                                       -- the second may begin before the delete that was sent for it arrives
    for _, r in ipairs(s:seen("POST", "/interrupt")) do
      assert.is_nil(stopped[r.body])
      stopped[r.body] = true
    end
    assert.is_truthy(next(stopped))
  end)

  scripted("in mid job goes on by polling", function()
    local s = K.server { hold = "running" }
    local pool, c = K.pool_of({ s }, { poll_ms = 20, reconnect_base_ms = 10 })
    assert.is_false(c.polling)
    local job = pool:submit(K.picture(), { max_attempts = 1 })
    K.till("it runs", function() return job.status == "running" end)
    s:set { ws = 404 }
    s:drop()
    K.till("it is polled", function() return c.polling end)
    s:go()
    assert.equal(1, #K.completed(job).images)
    assert.equal(1, #s:prompts())
  end)

  scripted("is followed by its socket again when there is one", function()
    local pool, c, s = polled()
    K.completed(pool:submit(K.picture(1)))
    s:set { ws = 101 }
    K.till("it has its socket", function() return not c.polling end)
    assert.is_true(K.completed(pool:submit(K.picture(2))).profile.exact)
  end)
end)

-- ---- credentials, paths, ids ------------------------------------------------------------------------------------

describe("credentials", function()
  local kinds = {
    basic = { { user = "anna", password = "pa:ss" }, { authorization = "Basic YW5uYTpwYTpzcw==" } },
    bearer = { { bearer = "tok-1" }, { authorization = "Bearer tok-1" } },
    header = { { headers = { ["X-Access-Key"] = "k-1", Cookie = "session=1" } }, { ["x-access-key"] = "k-1", cookie = "session=1" } },
    both = { { bearer = "tok-2", headers = { ["X-Team"] = "red" } }, { authorization = "Bearer tok-2", ["x-team"] = "red" } },
  }

  for name, k in K.sorted(kinds) do
    scripted("(" .. name .. ") reach every request and the socket", function()
      local s = K.server { auth = k[2], hold = "running" }
      local pool, c = K.pool_of { { s, k[1] } }
      local job = pool:submit(K.picture())
      K.till("it runs", function() return job.status == "running" end)
      s:go()
      local r = K.completed(job)
      assert.equal("bytes of a_00001_.png", r:fetch(r.images[1]))
      assert(r:save(H.folder "credentials"))
      assert(c:system_stats())
      assert(c:upload { name = "x.png", data = "x" })
      local sockets = 0
      for _, q in ipairs(s:seen()) do
        if q.path == "/ws" then sockets = sockets + 1 end
        for header, value in pairs(k[2]) do assert.equal(value, q.headers[header], q.path) end
      end
      assert.equal(1, sockets)
    end)
  end

  scripted("in the address are used, and not shown", function()
    local s = K.server { auth = { authorization = "Basic YW5uYTpzM2NyZXQ=" } }
    local pool = K.pool()
    local c = assert(pool:add_client((s.url:gsub("://", "://anna:s3cret@"))))
    assert(pool:init())
    K.completed(pool:submit(K.picture()))
    assert.is_nil(c.url:find("s3cret", 1, true))
    assert.is_nil(c.name:find("s3cret", 1, true))
    assert.is_nil(tostring(c):find("s3cret", 1, true))
  end)

  for what, x in K.sorted {
    ["@ and :"] = { "anna:p%40s%3As", "YW5uYTpwQHM6cw==" },                      -- anna:p@s:s
    ["in small letters"] = { "anna:a%2fb%3f", "YW5uYTphL2I/" },                  -- anna:a/b?
    ["an umlaut in the name"] = { "j%C3%B6rg:x", "asO2cmc6eA==" },              -- jörg:x
    ["a plus, and what is no escape"] = { "anna:a+b%zz%4", "YW5uYTphK2IlenolNA==" },
    ["another @ in it"] = { "anna:a@b", "YW5uYTphQGI=" },                        -- the last one ends them
    ["a name alone"] = { "anna", "YW5uYTo=" },                                   -- anna:
    ["a byte that no password has"] = { "anna:a%00b", "YW5uYTphJTAwYg==" },      -- stays as it is
  } do
    scripted("in the address are unescaped: " .. what, function()
      local s = K.server { auth = { authorization = "Basic " .. x[2] } }
      local pool = K.pool()
      assert(pool:add_client((s.url:gsub("://", function() return "://" .. x[1] .. "@" end))))
      assert(pool:init())
      K.completed(pool:submit(K.picture()))
      for _, q in ipairs(s:seen()) do assert.equal("Basic " .. x[2], q.headers.authorization, q.path) end
    end)
  end

  scripted("that are wrong are said, without showing them", function()
    local s = K.server { auth = { authorization = "Bearer right" } }
    local pool = K.pool()
    local c = pool:add_client(s.url, { bearer = "wr0ng-secret" })
    local ok, err = pool:init()
    assert.is_nil(ok)
    assert.matches("401", c.problem)
    assert.matches("credentials", c.problem)
    assert.is_nil((c.problem .. tostring(err)):find("wr0ng-secret", 1, true))
  end)

  scripted("never appear in the log", function()
    local s = K.server { auth = { authorization = "Bearer t0p-secret", ["x-key"] = "s3cond-secret" }, status = { ["/prompt"] = { 500 } } }
    local file = H.folder "secrets" .. "/batch.lua"
    H.write(file, ([[
      local moonpool, H = require "moonpool", dofile "tests/spec/helper.lua"
      local pool <close> = moonpool.pool { log_level = "debug", retry_delay_ms = 1, monitoring = true, monitoring_interval_ms = 20 }
      pool:add_client("%s", { bearer = "t0p-secret", headers = { ["X-Key"] = "s3cond-secret" }, api_key = "th1rd-secret" })
      local wrong = pool:add_client("%s/wrong", { bearer = "t0p-secret" })
      local r = pool:submit(moonpool.workflow.from(H.text_to_image)):wait(20000)
      while not wrong.tried do moonpool.step(10) end
      print(r and r.status, r and r.error, tostring(pool), moonpool.json.encode(r.metadata or {}))
    ]]):format(s.url, s.url))
    local out, code = H.run("timeout 60 " .. H.moonpool .. " " .. file)
    assert.equal(0, code)
    assert.matches("completed", out)
    assert.is_nil(out:find("secret", 1, true))
  end)

  it("that are no texts are named", function()
    local pool = K.pool()
    assert.error_matches(function() pool:add_client("http://127.0.0.1:1", { bearer = 5 }) end, "bearer")
    assert.error_matches(function() pool:add_client("http://127.0.0.1:1", { bearer = "a\r\nX: b" }) end, "bearer")
    assert.error_matches(function() pool:add_client("http://127.0.0.1:1", { api_key = {} }) end, "api_key")
  end)
end)

describe("a path in the address", function()
  for _, slash in ipairs { "", "/" } do
    scripted("comes before every path" .. (slash == "/" and ", with a slash at its end too" or ""), function()
      local s = K.server { prefix = "/comfy/gpu-1" }
      local pool = K.pool()
      local c = assert(pool:add_client(s.url .. slash))
      assert(pool:init())
      local r = K.completed(pool:submit(K.picture()))
      assert.equal("bytes of a_00001_.png", r:fetch(r.images[1]))
      assert.is_truthy(r.images[1].url:find(s.url .. "/view", 1, true))
      assert(c:queue())
      for _, q in ipairs(s:seen()) do assert.is_truthy(q.path:find("^/comfy/gpu%-1/%w"), q.path) end
    end)
  end
end)

describe("a server that chooses its own prompt ids", function()
  scripted("gives its id to the job, and is asked by it", function()
    local s = K.server { own_ids = false, version = "unknown", hold = "pending" }
    local pool, c = K.pool_of { s }
    local job = pool:submit(K.picture())
    K.till("it is there", function() return #s:prompts() == 1 and job.status == "assigned" and #assert(c:queue()).queue_pending == 1 end)
    local id = c:queue().queue_pending[1][2]
    K.till("the job has its id", function() return job.prompt_id == id end)
    assert.not_equal(id, s:prompts()[1].prompt_id)
    s:go()
    local r = K.completed(job)
    assert.equal(id, r.prompt_id)
    assert.equal(id, r.profile.promptId)
    assert.is_table(assert(c:history(id))[id])
  end)

  scripted("deletes a waiting prompt by that id", function()
    local s = K.server { own_ids = false, version = "unknown", hold = "pending" }
    local pool, c = K.pool_of { s }
    local accepted = K.events(pool, "job:accepted")
    local job = pool:submit(K.picture())
    K.till("it is accepted", function() return #accepted == 1 end)
    local id = job.prompt_id
    assert.equal(accepted[1].prompt_id, id)
    job:cancel()
    K.till("the server is empty", function() return #assert(c:queue()).queue_pending == 0 end)
    assert.same({ id }, K.json.decode(s:seen("POST", "/queue")[1].body).delete)
    assert.equal(0, #s:seen("POST", "/interrupt"))
  end)

  scripted("and interrupts whatever runs is asked to only when ours runs", function()
    local s = K.server { own_ids = false, version = "unknown", hold = "running" }
    local mine, c = K.pool_of { s }
    local theirs = K.pool_of { s }
    local long = theirs:submit(K.picture(1))
    K.till("theirs runs", function() return long.status == "running" end)
    local accepted = K.events(mine, "job:accepted")
    local job = mine:submit(K.picture(2))
    K.till("mine waits", function() return #accepted == 1 end)
    job:cancel()
    K.till("mine is gone", function() return #assert(c:queue()).queue_pending == 0 end)
    K.till("the pool has nothing to do", function() return c.queued == 0 end)
    assert.equal(0, #s:seen("POST", "/interrupt"))
    assert.equal("running", long.status)
    long:cancel()
    K.till("theirs is interrupted", function() return #assert(c:queue()).queue_running == 0 end)
    assert.equal(1, #s:seen("POST", "/interrupt"))
  end)
end)

-- ---- defects of the reference -----------------------------------------------------------------------------------

describe("not as in the reference:", function()
  local held_by_pool_spec = {
    ["a node error ends the wait, and is retried"] = "is retried, and the job completes",
    ["there are time-outs"] = "fail at node_silence_ms when nothing is heard, and the attempts are used up",
    ["a job outlives a socket that was lost in its middle"] = "drops the socket in mid job, and we are back after its end: what nobody saw is not exact",
    ["a job outlives a socket that is lost again and again"] = "drops the socket again and again",
    ["a job outlives a server that was killed and restarted"] = "restarts in mid job",
    ["a sampler that one client lacks is found elsewhere"] = "sends the job to a server that has it, and the next one at once",
    ["canceling what waits on the server deletes it there"] = "of a job that waits on the server",
    ["canceling leaves other users' prompts alone"] = "serves two pools keeps their jobs apart when one cancels",
    ["two pools may use one server"] = "serves two pools serves both",
    ["a client that is down at init joins later"] = "finds a server that comes up later",
    ["two output nodes are both in the result"] = "of two nodes are both there",
    ["results wait for whoever fetches them"] = "keeps what nobody fetched, however small completed_retention is",
    ["failed jobs have a profile"] = "shows in the profile",
    ["every job ends after pool shutdown"] = "cancels what is left, and every waiter gets a result",
  }
  local text = H.read "tests/spec/pool_spec.lua"
  for rule, name in K.sorted(held_by_pool_spec) do
    it(rule .. ": pool_spec.lua holds it", function() assert.is_truthy(text:find('it("' .. name .. '"', 1, true)) end)
  end

  for _, own_ids in ipairs { true, false } do
    scripted("a job whose messages all come before the POST's reply completes (ids of " .. (own_ids and "ours" or "the server's") .. ")", function()
      local s = K.server { early = true, own_ids = own_ids }
      local pool, c = K.pool_of { s }
      for i = 1, 3 do
        local r = K.completed(pool:submit(K.picture(i)))
        assert.same({ 1, 1 }, { r.attempts, #r.images })
      end
      K.till("its slots are free", function() return c.state == "idle" end)
      assert.equal(3, #s:prompts())
    end)
  end

  scripted("HTTP 500 with a text is an attempt, and the client goes on", function()
    local s = K.server { status = { ["/prompt"] = { 500, 500 } } }
    local pool, c = K.pool_of { s }
    local r = K.completed(pool:submit(K.picture(1)))
    assert.same({ 3, "server" }, { r.attempts, r.profile.attempts[1].outcome })
    assert.is_true(c.online)
    assert.equal(1, K.completed(pool:submit(K.picture(2))).attempts)
  end)

  it("a job that is sent after two lost sockets completes", function()
    local s = K.sim()
    local pool, c = K.pool_of({ s }, { reconnect_base_ms = 20 })
    for i = 1, 2 do
      s:drop()
      K.till("it is offline", function() return not c.online end)
      K.till("it is back", function() return c.online end)
      K.completed(pool:submit(K.picture(i)))
    end
    assert.equal(2, s:record().prompts)
  end)

  it("a server that is down for long is shown as away, and is tried without end", function()
    local s = K.sim()
    local pool, c = K.pool_of({ s }, { reconnect_base_ms = 5, reconnect_cap_ms = 10, settle_ms = 50 })
    s:restart(1000)
    local job = pool:submit(K.picture())
    K.till("it is away", function() return not c.online end)
    local states = {}
    local r = K.till("the job has ended", function()
      if not c.online then states[c.state] = true end
      return job:result()
    end)
    assert.equal("completed", r.status)
    assert.is_nil(states.idle)
    assert.is_nil(states.busy)
    assert.is_true(states.offline or states.connecting)
  end)

  scripted("a socket that is open and dead is found after inactivity_ms, and one that answers pings is kept", function()
    local dead, alive = K.server { pongs = false }, K.server()
    local pool, c, other = K.pool_of({ dead, alive }, { inactivity_ms = 2000, reconnect_base_ms = 100000 })
    local lost = K.events(pool, "client:state")
    K.till("the dead one is offline", function() return c.state == "offline" end)
    moonpool.sleep(1000)                                           -- as long as a second ping would take to be missed
    assert.is_true(other.online)
    assert.equal(c.name, lost[1].client)
  end)

  it("a request of a script's own on a client ends after request_timeout_ms", function()
    local s = K.sim()
    local pool, c = K.pool_of({ s }, { request_timeout_ms = 300 })
    local r = K.completed(pool:submit(K.picture()))
    s:stall(3600000)
    for _, ask in ipairs { function() return c:queue() end, function() return c:upload { name = "a.png", data = "bytes" } end, function() return r:fetch(r.files[1]) end } do
      local value, err = ask()
      assert.is_nil(value)
      assert.equal("timeout", err.kind)
    end
  end)

  it("a server that accepts and never answers holds up nobody but the job it has", function()
    local pool, a, b = K.pair({ request_timeout_ms = 300, connect_timeout_ms = 300, unreachable_ms = 600, take_backs = 0 })
    a:stall(3600000)
    local jobs = {}
    for i = 1, 6 do jobs[i] = pool:submit(K.picture(i)) end
    for i = 2, 6 do assert.equal("b", K.completed(jobs[i]).client) end
    assert.is_false(jobs[1].ended)
    assert.equal("b", K.completed(jobs[1]).client)
    assert.equal(6, b:record().prompts)
  end)

  it("a job may have bounds of its own", function()
    local pool, a, b = K.pair({ request_timeout_ms = 300, connect_timeout_ms = 300, take_backs = 0 })
    a:stall(3600000)
    local r = K.completed(pool:submit(K.picture(1), { request_timeout_ms = 100, unreachable_ms = 300 }))       -- the pool's own is two minutes
    assert.same({ "b", 1 }, { r.client, b:record().prompts })
    local lonely = K.pool {}
    local brief, patient = lonely:submit(K.picture(1), { no_client_ms = 50 }), lonely:submit(K.picture(2))
    local gone = K.ended(brief)
    assert.same({ "failed", "no_clients" }, { gone.status, gone.error.kind })
    assert.matches("for 0.05 s", gone.error.message)
    assert.equal("no_clients", patient.status)
    for _, bad in ipairs { { no_client_ms = -1 }, { unreachable_ms = "1" }, { request_timeout_ms = 0 } } do
      assert.error_matches(function() lonely:submit(K.picture(), bad) end, "submit: option '" .. next(bad) .. "'", 1, true)
    end
  end)

  it("a result that comes late is recorded, and not delivered", function()
    local s = K.sim { step_ms = 40 }
    s:lose_interrupts(1000000)
    local pool = K.pool_of { s }
    local lines = {}
    pool:on("info", function(e) lines[#lines + 1] = e.message end)
    local job = pool:submit(K.picture():input("3", "steps", 10))
    K.till("it runs", function() return job.status == "running" end)
    job:cancel()
    assert.equal("canceled", K.ended(job).status)
    K.till("it has ended there", function() return pool:stats().late == 1 end)
    local n = 0
    for r in pool:results() do n = n + 1; assert.equal("canceled", r.status) end
    assert.equal(0, n)                                            -- its only result was handed out by the wait
    assert.equal("canceled", job.status)
    K.turns()
    local told = 0
    for _, line in ipairs(lines) do told = told + (line:find("ended well after it had been given up", 1, true) and 1 or 0) end
    assert.equal(1, told)
  end)

  it("every server gets a job, also when each is some way off", function()
    local servers = {}
    for i = 1, 8 do servers[i] = K.wedged { delay_ms = 5 } end
    local pool = K.pool_of(servers, { take_backs = 0 })
    for i = 1, 8 do pool:submit(K.picture(i)) end
    K.till("all are at servers", function()
      for _, s in ipairs(servers) do
        if s:record().waiting ~= 1 then return false end
      end
      return true
    end)
  end)

  scripted("an interrupt names the prompt", function()
    local s = K.server { hold = "running" }
    local pool, c = K.pool_of { s }
    local job = pool:submit(K.picture())
    K.till("it runs", function() return job.status == "running" end)
    local id = job.prompt_id
    job:cancel()
    K.till("the server is empty", function() return #assert(c:queue()).queue_running == 0 end)
    for _, q in ipairs(s:seen("POST", "/interrupt")) do assert.equal(id, K.json.decode(q.body).prompt_id) end
  end)

  it("seeds up to 2^64-1 arrive as they are", function()
    local pool, c = K.pool_of { K.sim() }
    for _, seed in ipairs { "9007199254740993", "9223372036854775807", "18446744073709551615" } do
      local wf = assert(moonpool.workflow.from((H.text_to_image:gsub('"seed": 1,', '"seed": ' .. seed .. ","))))
      local r = K.completed(pool:submit(wf))
      assert.is_truthy(assert(c:get("/history/" .. r.prompt_id)).body:find('"seed":%s*' .. seed .. "[^%d.eE]"))
    end
  end)

  it("a result can be waited for late, beyond completed_retention", function()
    local pool = K.pool_of({ K.sim() }, { completed_retention = 1 })
    local jobs = {}
    for i = 1, 5 do jobs[i] = pool:submit(K.picture(i)) end
    for i = 5, 1, -1 do assert.equal(jobs[i].id, K.completed(jobs[i]).job_id) end
    collectgarbage()
    for i = 1, 5 do assert.equal(1, #K.completed(jobs[i]).images) end
  end)

  it("a loop of submits in a task lets the first prompt leave before it ends", function()
    local s = K.sim()
    local pool = K.pool_of { s }
    local before = moonpool.spawn(function()
      for i = 1, 2000 do pool:submit(K.picture(i)) end
      return s:record().prompts
    end):wait(30000)
    assert.is_true(before > 0)
  end)

  it("nodes of less than a millisecond have a duration, and are among the slowest", function()
    local all = K.costs(0.4)
    for class in pairs(all) do all[class] = 0.4 end
    local pool = K.pool_of { K.sim { speed = 1, costs = all } }
    local p = K.completed(pool:submit(K.picture())).profile
    assert.equal(5, #p.summary.slowestNodes)
    local fractions = 0
    for _, n in ipairs(p.nodes) do
      assert.is_number(n.duration)
      if n.duration % 1 ~= 0 then fractions = fractions + 1 end
    end
    assert.is_true(fractions > 0)
    assert.near(p.executionTime - p.gapTime + p.overlapTime, (function()
      local sum = 0
      for _, n in ipairs(p.nodes) do sum = sum + n.duration end
      return sum
    end)(), 1e-6)
  end)

  it("a canceled job has a profile that adds up, with the node that was stopped", function()
    local pool = K.pool_of { K.sim { step_ms = 10 } }
    local job = pool:submit(K.endless())
    local steps = 0
    job:on("progress", function() steps = steps + 1 end)
    K.till("its sampler works", function() return steps > 0 end)
    job:cancel()
    local r = K.ended(job)
    local s = r.profile.summary
    assert.equal("canceled", r.status)
    assert.near(r.profile.totalDuration, r.profile.queueTime + r.profile.executionTime, 1e-6)
    assert.is_true(r.profile.executionTime > 0)
    assert.equal(1, s.failedNodes)
    assert.equal(s.totalNodes, s.executedNodes + s.cachedNodes + s.failedNodes + s.pendingNodes)
  end)

  it("a fully cached job says so of every node, and no time is invented", function()
    local pool = K.pool_of { K.sim() }
    K.completed(pool:submit(K.picture()))
    local p = K.completed(pool:submit(K.picture())).profile
    assert.same({ 7, 7, 0 }, { p.summary.totalNodes, p.summary.cachedNodes, p.summary.executedNodes })
    for _, n in ipairs(p.nodes) do
      assert.equal("cached", n.status)
      assert.equal(0, n.duration or 0)
    end
  end)

  it("a client may be added, removed and paused at any time, before init too", function()
    local pool = K.pool()
    local s = K.sim()
    local gone = pool:add_client(K.nowhere(), { name = "gone" })
    assert.is_true(gone:remove())
    pool:add_client(s.url)
    assert(pool:init())
    K.completed(pool:submit(K.picture()))
    assert.equal(1, #pool:clients())
  end)
end)

describe("a server that talks without end", function()
  scripted("is heard for at most 16 KB per turn of the loop, so that the others have theirs", function()
    local frame, frames = '{"type": "chatter", "data": {"a": "' .. ("x"):rep(60) .. '"}}', {}
    for i = 1, 5000 do frames[i] = frame end
    local s = K.server()
    local pool = K.pool_of { s }
    local heard, most, total = 0, 0, 0
    pool:on("client:message", function(e) heard = heard + (e.event_type == "chatter" and 1 or 0) end)
    moonpool.spawn(function() s:say(frames) end)
    K.till("all of it was heard", function()
      most, total, heard = math.max(most, heard), total + heard, 0
      return total == #frames
    end)
    assert.is_true(most <= 16384 // (#frame + 2) + 1, most .. " frames in one turn")
  end)
end)
