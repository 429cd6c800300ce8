-- tests/spec/sim_switches_spec.lua: what a simulated server is told to do, by its options and by its methods.
local S = require "simkit"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json
local server, request, get, fetch, connect, submit, run = S.server, S.request, S.get, S.fetch, S.connect, S.submit, S.run
local next_message, read_until, is_end, short, shorts, only = S.next_message, S.read_until, S.is_end, S.short, S.shorts, S.only
local small, endless_costs, occupy, interrupt, history_of = S.small, S.endless_costs, S.occupy, S.interrupt, S.history_of

after_each(K.clean)

local function is(kind) return function(m) return m.type == kind end end
local NEVER = 1e9                                -- ms: later than any spec ends

-- From the first spec to the last: a socket on which nothing happens. Only time can tell of a ping; the library's shortest would come
-- after a second.
local idle
setup(function()
  if not K.python then return end
  idle = { sim = server() }
  idle.said = S.raw_socket(idle.sim, "f", "f")
end)
teardown(function()
  if idle then idle.sim:close() end
end)

it("sim: wrong values of its options are refused by name", function()
  for option, values in K.sorted { early = { 1, "yes" }, history_ms = { -1, 2e9, "x" }, overhead_ms = { -1 }, cache_size = { 0, 1.5 }, no_orphans = { 0 } } do
    for _, value in ipairs(values) do
      assert.error_matches(function() moonpool.sim { [option] = value } end, "sim: option '" .. option .. "'")
    end
  end
end)

-- ---- the beginning of a job -------------------------------------------------------------------------------------------------

describe("sim: early", function()
  -- What had been sent when the reply to a prompt was here: nothing more comes from a sim that is closed.
  local function till_reply(sim, ws, prompt)
    submit(sim, prompt, "a")
    sim:close()
    local list = {}
    for text in function() return (ws:receive(S.BOUND)) end do list[#list + 1] = json.decode(text) end
    return shorts(list)
  end

  local instant = { early = true, speed = 0.001, costs = { EmptyImage = 0, ImageInvert = 0, SaveImage = 0 } }        -- the keys alone would take a second

  it("a prompt that takes no time is told to its end before the reply", function()
    local sim <close> = server(instant)
    local ws <close> = connect(sim, "a")
    assert.are.same({
      "status 1", "status 1", "execution_start", "execution_cached", "progress_state", "executing 1", "progress_state",
      "progress_state", "executing 2", "progress_state", "progress_state", "executing 3", "executed 3", "progress_state",
      "execution_success", "status 0", "executing null",
    }, till_reply(sim, ws, small()))
  end)

  it("so is one that is wholly cached, as recorded in frames_before_reply", function()
    local sim <close> = server(instant)
    local ws <close> = connect(sim, "a")
    run(sim, ws, "a", small())
    assert.are.same({ "status 1", "status 1", "execution_start", "execution_cached 1,2,3", "executed 3", "progress_state", "execution_success", "status 0", "executing null" },
      till_reply(sim, ws, small()))
  end)

  it("of another one all is told that comes before the first node has worked", function()
    local sim <close> = server { early = true, speed = 0.001, costs = { EmptyImage = 1e6 } }
    local ws <close> = connect(sim, "a")
    assert.are.same({ "status 1", "status 1", "execution_start", "execution_cached", "progress_state", "executing 1" }, till_reply(sim, ws, small()))
  end)

  it("behind another prompt there is nothing to tell", function()
    local sim <close> = server { early = true, costs = endless_costs }
    local ws <close> = connect(sim, "b")
    local other <close> = connect(sim, "a")
    occupy(sim, ws, "b")
    while next_message(other).data.status.exec_info.queue_remaining ~= 1 do end
    assert.are.same({ "status 1", "status 2" }, till_reply(sim, other, small()))
  end)

  it("a refused prompt is told to nobody", function()
    local sim <close> = server { early = true }
    local ws <close> = connect(sim, "a")
    assert.are.equal(400, request(sim, "POST", "/prompt", { prompt = { ["1"] = small()["1"] } }).status)
    assert.are.equal("status 1", short(next_message(ws, submit(sim, small(), "a"))))
  end)

  for _, version in ipairs { "0.18.1", "0.3.75", "0.3.64", "2024-10" } do
    it("a pool does its jobs on such a " .. version, function()
      local sim = K.sim { version = version, early = true, costs = { KSampler = 0, CheckpointLoaderSimple = 0, EmptyLatentImage = 0, CLIPTextEncode = 0, VAEDecode = 0, SaveImage = 0 } }
      local pool, jobs = K.pool_of({ sim }, { profiling = true }), {}
      local events = {}
      for _, name in ipairs { "job:accepted", "job:started", "job:completed" } do
        pool:on(name, function(e) events[e.job_id] = (events[e.job_id] or "") .. " " .. name:sub(5) end)
      end
      for i = 1, 6 do jobs[i] = pool:submit(K.picture(i // 2)) end
      for i = 1, 6 do
        local r = K.completed(jobs[i])
        assert.are.equal(1, #r.images)
        assert.are.equal(1, r.attempts)
        assert.are.equal(7, r.profile.summary.executedNodes + r.profile.summary.cachedNodes)
        assert.are.equal(" accepted started completed", events[jobs[i].id])
      end
      assert.are.equal(6, sim:record().prompts)
    end)
  end
end)

-- ---- the end of a job ------------------------------------------------------------------------------------------------------

describe("sim: history_ms", function()
  it("after execution_success the job still runs, and is not in the history", function()
    local sim <close> = server { history_ms = NEVER }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is "execution_success")
    assert.are.equal("{}", get(sim, "/history/" .. id).body)
    assert.are.equal("{}", get(sim, "/history").body)
    assert.are.equal(id, fetch(sim, "/queue").queue_running[1][2])
    assert.are.equal(1, fetch(sim, "/prompt").exec_info.queue_remaining)
    assert.are.equal("in_progress", fetch(sim, "/api/jobs/" .. id).status)
    interrupt(sim, id)                             -- which is too late
    assert.are.same({}, shorts(S.everything(ws)))
  end)

  it("so it is after a failure and an interrupt", function()
    local sim <close> = server { history_ms = NEVER }
    local ws <close> = connect(sim, "a")
    sim:fail()
    local id = submit(sim, small(), "a")
    read_until(ws, is "execution_error")
    assert.are.equal("{}", get(sim, "/history/" .. id).body)
    local other <close> = server { history_ms = NEVER, costs = endless_costs }
    local ear <close> = connect(other, "a")
    local stopped = occupy(other, ear, "a")
    interrupt(other, stopped)
    read_until(ear, is "execution_interrupted")
    assert.are.equal("{}", get(other, "/history/" .. stopped).body)
  end)

  it("then it is there when status and the end are told, and the next one begins", function()
    local sim <close> = server { history_ms = 5, costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local one = occupy(sim, ws, "a")
    local two = submit(sim, small(2), "a")
    read_until(ws, function(m) return short(m) == "status 2" end)
    interrupt(sim, one)
    local list = shorts(read_until(ws, is_end(one)))
    assert.are.same({ "execution_interrupted 3", "status 1", "executing null" }, { table.unpack(list, #list - 2) })
    assert.are.equal("error", history_of(sim, one).status.status_str)
    read_until(ws, is_end(two))
  end)

  for _, version in ipairs { "0.18.1", "0.3.75", "0.3.64", "2024-10" } do
    it("a pool gets its results from such a " .. version, function()
      local sim = K.sim { version = version, history_ms = 20, overhead_ms = 5 }
      local pool, jobs = K.pool_of { sim }, {}
      for i = 1, 4 do jobs[i] = pool:submit(K.picture(i)) end
      for i = 1, 4 do assert.are.equal(1, #K.completed(jobs[i]).images) end
      assert.are.equal(4, sim:record().prompts)
    end)
  end
end)

-- ---- the cache -----------------------------------------------------------------------------------------------------------------

describe("sim: cache lru", function()
  -- Two nodes of its own.
  local function pair(color) return { ["1"] = { class_type = "EmptyImage", inputs = { width = 16, height = 16, batch_size = 1, color = color } }, ["2"] = { class_type = "PreviewImage", inputs = { images = { "1", 0 } } } } end
  local HIT, MISS = "execution_cached 1,2", "execution_cached"
  local function hits(sim, ws, ...)
    local list = {}
    for i, color in ipairs { ... } do list[i] = shorts(run(sim, ws, "a", pair(color)))[4] end
    return list
  end

  it("keeps results over other prompts", function()
    local sim <close> = server { cache = "lru" }
    local ws <close> = connect(sim, "a")
    assert.are.same({ MISS, MISS, HIT, HIT }, hits(sim, ws, 1, 2, 1, 2))
  end)

  it("keeps cache_size of them: those that were used last", function()
    local sim <close> = server { cache = "lru", cache_size = 4 }
    local ws <close> = connect(sim, "a")
    assert.are.same({ MISS, MISS, HIT, MISS, HIT, MISS }, hits(sim, ws, 1, 2, 1, 3, 1, 2))
  end)
end)

-- ---- sockets ---------------------------------------------------------------------------------------------------------------------

describe("sim: no_orphans", function()
  it("when the older of two sockets closes, the newer one goes on hearing", function()
    local sim <close> = server { no_orphans = true }
    local old = connect(sim, "twice")
    local new <close> = connect(sim, "twice")
    old:close(1000, "")
    assert.are.equal("closed", select(2, old:receive(S.BOUND)).kind)
    assert.are.equal(1, #only(run(sim, new, "twice", small()), "execution_success"))
  end)
end)

-- ---- interrupts, the clock ---------------------------------------------------------------------------------------------------------

describe("sim: interrupts", function()
  it("so many are lost", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local id = occupy(sim, ws, "a")
    sim:lose_interrupts(2)
    for _ = 1, 2 do assert.are.equal(200, interrupt(sim, id).status) end
    assert.are.equal(0, #only(S.everything(ws), "execution_interrupted"))
    read_until(ws, is "progress")                  -- one that is told after both
    interrupt(sim, id)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_interrupted"))
    assert.are.equal(1, sim:record().interrupted)
  end)

  it("those that hit nothing do not count as lost", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    sim:lose_interrupts(1)
    interrupt(sim)
    local id = occupy(sim, ws, "a")
    interrupt(sim, "another")
    interrupt(sim, id)
    S.everything(ws)
    read_until(ws, is "progress")
    interrupt(sim, id)
    assert.are.equal(1, #only(read_until(ws, is_end(id)), "execution_interrupted"))
  end)

  it("a late one hits what runs after its prompt, and only that", function()
    local sim <close> = server { costs = endless_costs }
    local ws <close> = connect(sim, "a")
    local one = occupy(sim, ws, "a")
    local two, three = submit(sim, small(2), "a"), submit(sim, small(3), "a")
    sim:late_interrupt()
    interrupt(sim, one)                            -- which is the late one
    S.everything(ws)
    read_until(ws, is "progress")
    interrupt(sim, one)
    local hit = {}
    for _, m in ipairs(only(read_until(ws, is_end(three)), "execution_interrupted")) do hit[#hit + 1] = m.data.prompt_id end
    assert.are.same({ one, two }, hit)
    assert.are.equal("success", history_of(sim, three).status.status_str)
  end)
end)

describe("sim: set_clock", function()
  it("moves the times that the server tells, and nothing else", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    local HOUR = 3600000
    local function told()
      local list, id = run(sim, ws, "a", small())
      local start, messages = only(list, "execution_start")[1].data.timestamp, history_of(sim, id).status.messages
      assert.are.equal(start, messages[1][2].timestamp)
      assert.is_true(start <= messages[#messages][2].timestamp)
      assert.is_true(math.abs(start - history_of(sim, id).prompt[4].create_time) < 60000)
      return start
    end
    local now = told()
    sim:set_clock(HOUR)
    assert.is_true(math.abs(told() - now - HOUR) < 60000)
    sim:set_clock(-3 * HOUR)
    assert.is_true(math.abs(told() - now + 2 * HOUR) < 60000)
  end)

  it("a pool's own times do not follow it", function()
    local sim = K.sim()
    local pool = K.pool_of({ sim }, { profiling = true })
    local job = pool:submit(K.endless())
    K.till("it runs", function() return job.status == "running" end)
    sim:set_clock(-3600000)
    job:cancel()
    local p = K.ended(job).profile
    assert.is_true(p.totalDuration >= 0 and p.totalDuration < 60000 and p.executionTime >= 0, p.totalDuration .. " ms")
  end)
end)

-- ---- frames ------------------------------------------------------------------------------------------------------------------

describe("sim: frames", function()
  -- A socket whose first frame is such a one.
  local function begun(sim, options, max)
    sim:frames(options)
    return assert(moonpool.ws.connect { url = sim.url:gsub("^http", "ws") .. "/ws?clientId=a", max_message = max })
  end

  local flags = json.encode { type = "feature_flags", data = { supports_preview_metadata = true } }

  it("so many are so long, and say the same", function()
    local sim <close> = server()
    sim:frames { bytes = 200000, times = 3 }
    local ws <close> = connect(sim, "a")           -- the first of them is the status of the connection
    submit(sim, small(), "a")
    local sizes = {}
    for i = 1, 5 do
      local text = assert(ws:receive(S.BOUND))
      sizes[i] = #text == 200000
      assert.is_table(json.decode(text))
    end
    assert.are.same({ true, true, false, false, false }, sizes)
  end)

  it("a frame that is longer already stays as it is", function()
    local sim <close> = server()
    local ws <close> = begun(sim, { bytes = 5 })
    assert.matches("}}$", (ws:receive(S.BOUND)))
  end)

  it("previews too: the picture is followed by blanks", function()
    local sim <close> = server { previews = true }
    local ws <close> = connect(sim, "a")
    sim:frames { bytes = 100000, times = 1e9 }
    for _, m in ipairs(only(run(sim, ws, "a", S.text_to_image()), "binary")) do
      assert.are.equal(100000, #m.data)
      assert.matches("^\xff\xd8.*\xff\xd9 +$", m.data:sub(9))
    end
  end)

  it("slow ones come whole, in their order", function()
    local sim <close> = server()
    local ws <close> = connect(sim, "a")
    sim:frames { bytes = 70000, ms = 4, times = 8 }
    ws:send(flags)
    local list = run(sim, ws, "a", small())
    assert.are.same({ "feature_flags", "status 1", "status 1", "execution_start", "execution_cached", "progress_state", "executing 1", "progress_state", "progress_state" }, { table.unpack(shorts(list), 1, 9) })
    assert.are.equal("executing null", short(list[#list]))
  end)

  it("a slow one keeps those behind it waiting, on its own socket only", function()
    local sim <close> = server()
    local ws <close> = begun(sim, { ms = NEVER })
    local other <close> = connect(sim, "b")
    submit(sim, small(), "a")
    read_until(other, function(m) return short(m) == "status 0" end)
    local data, err = ws:receive(20)
    assert.are.same({ nil, "timeout" }, { data, err.kind })
  end)

  it("a slow one comes byte for byte: what is too long is known before it is whole", function()
    local sim <close> = server()
    local ws <close> = begun(sim, { bytes = 1e6, ms = 1e5 }, 500)
    local data, err = ws:receive(S.BOUND)
    assert.are.same({ nil, "closed" }, { data, err.kind })
  end)

  K.scripted(it, pending)("a slow one is one frame, as all of a real server's are", function()
    local sim <close> = server()
    local said = S.raw_socket(sim, "f", "f")
    K.till("the reader is connected", function() return said():find "status" end)
    sim:frames { bytes = 70000, ms = 30 }
    submit(sim, small())
    assert.matches('^101\n81 %d+ {"type": "status"[^\n]*\n81 70000 {"type": "status"[^\n]*\n$', K.till("it came", function() return said():find "70000" and said() end))
  end)

  it("a socket may end in the midst of one, and the sim too", function()
    for _, which in ipairs { "socket", "drop", "sim" } do
      local sim <close> = server()
      local ws <close> = begun(sim, { bytes = 1e6, ms = NEVER })
      if which == "socket" then ws:close() elseif which == "drop" then sim:drop() else sim:close() end
      assert.is_nil((ws:receive(S.BOUND)))
      if which ~= "sim" then run(sim, connect(sim, "a"), "a", small()) end
    end
  end)

  it("wrong values are refused by name", function()
    local sim <close> = server()
    for word, value in pairs { bytes = -1, ms = "x", times = 0, size = 1 } do
      assert.error_matches(function() sim:frames { [word] = value } end, "sim:frames: .*" .. word)
    end
  end)

  it("a pool does its jobs on huge and slow ones", function()
    local sim = K.sim { previews = true }
    local pool, jobs = K.pool_of({ sim }, { profiling = true }), {}
    sim:frames { bytes = 300000, ms = 2, times = 60 }
    for i = 1, 3 do jobs[i] = pool:submit(K.picture(i)) end
    for i = 1, 3 do
      local r = K.completed(jobs[i])
      assert.are.same({ 1, 1 }, { #r.images, r.attempts })
    end
    assert.are.equal(3, sim:record().prompts)
  end)

  it("a pool does its job beside a message that it does not take", function()
    local sim = K.sim()
    local pool = K.pool_of { { sim, { max_message = 65536 } } }
    local states = K.events(pool, "client:state")
    sim:frames { bytes = 70000 }
    local r = K.completed(pool:submit(K.picture()))
    assert.are.same({ 1, 1 }, { #r.images, r.attempts })
    local lost = 0
    for _, e in ipairs(states) do lost = lost + (e.state == "offline" and 1 or 0) end
    assert.are.equal(1, lost)
    assert.are.equal(1, sim:record().prompts)
  end)
end)

describe("sim: an idle socket", function()
  K.scripted(it, pending)("gets no pings, nor anything else", function()
    moonpool.sleep(1500)
    assert.matches('^101\n81 %d+ {"type": "status"[^\n]*\n$', idle.said())
    idle.sim:close()
    assert.matches("\nclosed\n$", K.till("it ends with the sim", function() return idle.said():find "closed" and idle.said() end))
  end)
end)
