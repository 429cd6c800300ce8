-- tests/spec/sim_switches_spec.lua: what a simulated server is told to do, by its options and by its methods.
local S = require "simkit"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json
local server, request, get, fetch, connect, submit, run = S.server, S.request, S.get, S.fetch, S.connect, S.submit, S.run
local next_message, read_until, is_end, is_executing, short, shorts, only = S.next_message, S.read_until, S.is_end, S.is_executing, S.short, S.shorts, S.only
local small, endless, endless_costs, occupy, interrupt, history_of = S.small, S.endless, S.endless_costs, S.occupy, S.interrupt, S.history_of

after_each(K.clean)

local function is(kind) return function(m) return m.type == kind end end
local NEVER = 1e9                                -- ms: later than any spec ends

-- ---- the beginning of a job -------------------------------------------------------------------------------------------------

describe("sim: early", function()
  -- What had been sent when the reply to a prompt was here: nothing more comes from a sim that is closed.
  local function till_reply(sim, ws, prompt)
    submit(sim, prompt, "a")
    sim:close()
    local list, data, binary = {}, nil, nil
    while true do
      data, binary = ws:receive(S.BOUND)
      if not data then return shorts(list) end
      list[#list + 1] = binary and { type = "binary", data = data } or json.decode(data)
    end
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
