-- tests/bench/bench.lua: the figures we promise, as CPU per unit of work and as ratios in one run, medians of five.
-- Wall-clock times of this machine say little; where one is unavoidable (start-up, idle time) it is marked.
local moonpool = require "moonpool"
local core = moonpool.core
local build = "build"

local function sh(command)
  local p = assert(io.popen(command))
  local out = p:read "a"
  p:close()
  return out
end
local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end
local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end
local function row(what, measured, limit, unit, ok)
  print(("%-62s %10s  limit %-10s %s"):format(what, measured .. " " .. unit, limit .. " " .. unit, ok and "ok" or "MISSED"))
end

-- A server process; its addresses and a function that ends it.
local started = 0
local function start(command, lines)
  started = started + 1
  local out = ("%s/tmp/bench-%d.txt"):format(build, started)
  os.execute("mkdir -p " .. build .. "/tmp; : > " .. out)
  os.execute(("%s > %s 2>&1 & echo $! > %s.pid"):format(command, out, out))
  local urls = {}
  for _ = 1, 1000 do
    urls = {}
    for url in read(out):gmatch "http://[%d.:]+" do urls[#urls + 1] = url end
    if #urls >= lines then break end
    moonpool.sleep(5)
  end
  return urls, function() os.execute(("kill $(cat %s.pid) 2>/dev/null"):format(out)) end
end

local text = read "tests/bench/workflow.json"
local workflow = assert(moonpool.workflow.from(text))

-- ---- CPU per job -------------------------------------------------------------------------------------------------------

local function pool_cpu(urls, jobs)
  local pool = moonpool.pool { log_level = "error", policy = "default" }
  for _, url in ipairs(urls) do assert(pool:add_client(url)) end
  assert(pool:init())
  local before = core.cpu_ms()
  for i = 1, jobs do assert(pool:submit(workflow:clone():input("9", "seed", i):input("4", "text", "lighthouse " .. i))) end
  local n = 0
  for r in pool:results() do
    n = n + 1
    assert(r.status == "completed", tostring(r.error))
  end
  local cpu = (core.cpu_ms() - before) * 1000 / jobs
  assert(n == jobs)
  pool:shutdown { timeout_ms = 100 }
  return cpu
end

local jobs = tonumber(os.getenv "BENCH_JOBS") or 1000
local body = build .. "/tmp/bench-body.json"
local function cpu_rows()
  for _, v in ipairs { "2024-10", "0.18.1" } do
    local frames = "tests/bench/frames-" .. v .. ".txt"
    local list = read(frames)
    local _, count = list:gsub("\n", "")
    local urls, stop = start(("%s/player %s 2 %s"):format(build, frames, v == "2024-10" and "own" or ""), 2)
    local f = assert(io.open(body, "w"))
    local id = "00000000-0000-4000-8000-000000000000"
    f:write(('{"client_id":"moonpool-%s","prompt_id":"%s","extra_data":{"moonpool":"%s"},"prompt":%s}'):format(id, id, id, text))
    f:close()
    local ours, floor = {}, {}
    for i = 1, 5 do
      floor[i] = tonumber(sh(("%s/floor %s %d %d %s"):format(build, body, count, jobs, table.concat(urls, " "))))
      ours[i] = pool_cpu(urls, jobs)
    end
    stop()
    local a, b = median(ours), median(floor)
    if v == "2024-10" then row(("CPU per job, frames of %s (%d frames, %.0f KB)"):format(v, count, #list / 1024), ("%.0f"):format(a), "350", "us", a <= 350)
    else print(("%-62s %10s"):format(("CPU per job, frames of %s (%d frames, %.0f KB)"):format(v, count, #list / 1024), ("%.0f us"):format(a))) end
    print(("%-62s %10s"):format("  floor: a bare client, same loop, same bytes", ("%.0f us"):format(b)))
    row("  ratio to the floor", ("%.2f"):format(a / b), "1.50", "x", a / b <= 1.5)
  end
end

-- ---- memory -------------------------------------------------------------------------------------------------------------

local function queued_rows()
  local script = [[
    local moonpool = require "moonpool"
    local f = io.open("tests/bench/workflow.json"); local wf = moonpool.workflow.from(f:read "a")
    local function rss() collectgarbage() collectgarbage(); local f = io.open "/proc/self/status"; local t = f:read "a"; f:close(); return tonumber(t:match "VmRSS:%s+(%d+)") end
    local pool = moonpool.pool { log_level = "error", no_client_ms = 0 }
    for i = 1, 1000 do pool:submit(wf:clone():input("9", "seed", i):input("4", "text", "lighthouse " .. i)) end
    local before, t0, first = rss(), moonpool.core.cpu_ms(), nil
    for i = 1, 100000 do
      pool:submit(wf:clone():input("9", "seed", i):input("4", "text", "lighthouse " .. i))
      if i == 50000 then first = moonpool.core.cpu_ms() - t0 end
    end
    local cpu = moonpool.core.cpu_ms() - t0
    print((rss() - before) * 1024 / 100000, (cpu - first) / first, cpu * 1000 / 100000)
    os.exit(0, false)]]
  local bytes, growth, us = sh(("%s/moonpool -e '%s'"):format(build, script)):match "(%S+)%s+(%S+)%s+(%S+)"
  row("heap per queued job, 100,000 queued, two changed inputs", ("%.0f"):format(tonumber(bytes)), "600", "B", tonumber(bytes) <= 600)
  row("second half of submitting them against the first", ("%.2f"):format(tonumber(growth)), "1.50", "x", tonumber(growth) <= 1.5)
  print(("%-62s %10s"):format("  CPU per submit", ("%.1f us"):format(tonumber(us))))
end

-- ---- start-up and idle (wall clock) ----------------------------------------------------------------------------------------

local function start_rows()
  local urls, stop = start(("%s/player tests/bench/frames-0.18.1.txt 4"):format(build), 4)
  local script = ([[
    local moonpool = require "moonpool"
    local f = io.open("tests/bench/workflow.json"); local wf = moonpool.workflow.from(f:read "a")
    local pool = moonpool.pool { log_level = "error" }
    for url in ("%s"):gmatch "%%S+" do pool:add_client(url) end
    local at
    pool:on("job:accepted", function() at = at or moonpool.core.now() end)
    pool:submit(wf):wait()
    local f = io.open "/proc/self/status"
    print(at - %s, f:read "a":match "VmRSS:%%s+(%%d+)")
    os.exit(0, false)]])
  local times, kb = {}, {}
  for i = 1, 9 do
    local out = sh(("%s/moonpool -e '%s'"):format(build, script:format(table.concat(urls, " "), core.now())))
    local t, m = out:match "(%S+)%s+(%d+)"
    times[i], kb[i] = tonumber(t), tonumber(m)
  end
  stop()
  local t, m = median(times), median(kb) / 1024
  row("from process start to the first POST's reply (wall)", ("%.1f"):format(t), "15", "ms", t <= 15)
  row("resident, idle, 4 clients", ("%.1f"):format(m), "12", "MB", m <= 12)
end

local function idle_rows()
  local urls, stop = start(([[%s/moonpool sim --port 0 --delay 5 --costs '{"EmptyImage":10,"SaveImage":10}']]):format(build), 1)
  local wf = assert(moonpool.workflow.from [[{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}]])
  local pool = moonpool.pool { log_level = "error" }
  assert(pool:add_client(urls[1]))
  for i = 1, 200 do assert(pool:submit(wf:clone():input("1", "color", i))) end
  for r in pool:results() do assert(r.status == "completed") end
  local record = core.json.decode(moonpool.http.request { url = urls[1] .. "/moonpool/record" }.body)
  pool:shutdown()
  stop()
  local m = median(record.gaps_ms)
  row("server idle between two 20 ms jobs, 5 ms delay each way, 2 slots", ("%.2f"):format(m), "1.00", "ms", m < 1)
end

local function profile_rows()
  if sh "command -v valgrind" == "" then print "instructions per event: valgrind is not installed, not measured" return end
  for _, v in ipairs { "2024-10", "0.18.1" } do
    local function count(mode, rounds)
      local out = sh(("valgrind --tool=callgrind --callgrind-out-file=/dev/null %s/profcost tests/bench/workflow.json tests/bench/frames-%s.txt %d %s 2>&1"):format(build, v, rounds, mode))
      return tonumber(out:match "Collected : (%d+)"), tonumber(out:match "^(%d+)\n" or out:match "\n(%d+)\n")
    end
    local on, events = count("on", 40)
    local off = count("off", 40)
    local per = (on - off) / events
    row("instructions per event for profiling, frames of " .. v, ("%.0f"):format(per), "600", "", per <= 600)
  end
end

-- 1,000 clients, 1,000 workflows, a million jobs in virtual time; tests/bench/scale.c says what is counted.
local function scale_rows()
  local words = {
    general = "any client may run any job", affinity = "each workflow claimed by two clients", profiled = "with a profile each (200,000 jobs)",
    ["lua-default"] = "default policy in Lua, all limits on",
  }
  local best, worst, order = {}, {}, {}
  for _ = 1, 3 do
    for line in sh(build .. "/scale"):gmatch "[^\n]+" do
      local name, _, us, _, bytes = line:match "(%S+) (%S+) (%S+) (%S+) (%S+)"
      us = tonumber(us)
      if not best[name] then order[#order + 1] = name end
      if not best[name] or us < best[name].us then best[name] = { us = us, bytes = tonumber(bytes) } end
      worst[name] = math.max(worst[name] or 0, us)
    end
  end
  for _, name in ipairs(order) do
    local limit = name == "lua-default" and 20 or name ~= "profiled" and 10
    local it = best[name]
    row(("pool time per job at size, %s (best of 3, worst %.1f)"):format(words[name], worst[name]), ("%.2f"):format(it.us), limit and tostring(limit) or "", "us", not limit or it.us <= limit)
    row("  heap per queued job", ("%.0f"):format(it.bytes), "600", "B", it.bytes <= 600)
  end
end

-- When nodes began and ended, as the profile has it and as a server in a process of its own did it, on sockets without delay.
local function truth_rows()
  local script, seen = build .. "/tmp/bench-sim.lua", build .. "/tmp/bench-deeds.txt"
  os.execute("mkdir -p " .. build .. "/tmp")
  local f = assert(io.open(script, "w"))
  f:write [[
    local moonpool = require "moonpool"
    local sim, out = assert(moonpool.sim { speed = 20 }), assert(io.open(arg[1], "w"))
    sim:observe(function(mark, node, _, what, at) out:write(mark, " ", node, " ", what, " ", ("%.3f"):format(at), "\n") end)
    print(sim.url)
    io.stdout:flush()
    while true do
      out:flush()
      moonpool.sleep(100)
    end
  ]]
  f:close()
  local urls, stop = start(("%s/moonpool %s %s"):format(build, script, seen), 1)
  local pool = moonpool.pool { log_level = "error" }
  assert(pool:add_client(urls[1]))
  assert(pool:init())
  for i = 1, 500 do assert(pool:submit(workflow:clone():input("9", "seed", i):input("4", "text", "lighthouse " .. i))) end
  local profiles = {}
  for r in pool:results() do profiles[#profiles + 1] = r.profile end
  pool:shutdown()
  local truth, off = {}, {}
  local last = profiles[#profiles].promptId
  repeat                                                     -- the server writes what it did now and then
    moonpool.sleep(20)
    for line in io.lines(seen) do
      local mark, node, what, at = line:match "^(%S+) (%S+) (%S+) (%d+%.%d%d%d)$"
      if mark then truth[mark .. node .. what] = tonumber(at) end
    end
  until truth[last .. "12ends"]
  stop()
  for _, p in ipairs(profiles) do
    for _, n in ipairs(p.nodes) do
      if n.startedAt then off[#off + 1] = math.abs(n.startedAt - truth[p.promptId .. n.nodeId .. "begins"]) end
      if n.completedAt then off[#off + 1] = math.abs(n.completedAt - truth[p.promptId .. n.nodeId .. "ends"]) end
    end
  end
  table.sort(off)
  local middle, most = off[#off // 2], off[math.ceil(#off * 0.99)]
  row(("start and end of %d nodes on sockets, median error"):format(#off // 2), ("%.3f"):format(middle), "0.2", "ms", middle < 0.2)
  row("  99th percentile", ("%.3f"):format(most), "2", "ms", most < 2)
end

-- A real run on servers of their own, and the plan of it from its log: two clients, all jobs at once.
local function plan_rows()
  local urls, stop = start(build .. "/moonpool sim --port 0 --count 2 --speed 20", 2)
  local path = build .. "/tmp/bench-plan.jsonl"
  os.remove(path)
  local pool = moonpool.pool { profile_log = path, log_level = "error" }
  for _, url in ipairs(urls) do assert(pool:add_client(url)) end
  assert(pool:init())
  for i = 1, 200 do assert(pool:submit(workflow:clone():input("9", "seed", i):input("4", "text", "lighthouse " .. i))) end
  local real = {}
  for r in pool:results() do real[#real + 1] = r.profile.totalDuration end
  pool:shutdown()
  stop()
  table.sort(real)
  local planned = assert(moonpool.plan.run { log = path, clients = 2, arrivals = { batch = true }, jobs = 200 })
  for _, q in ipairs { { "p50", 0.5 }, { "p95", 0.95 } } do
    local off = math.abs(planned.total[q[1]] / real[math.ceil(#real * q[2])] - 1) * 100
    row("plan of a run on sockets, " .. q[1] .. " of the total time, off by", ("%.1f"):format(off), "10", "%", off <= 10)
  end
end

-- Mean waits against theory, as many jobs as it takes for an interval of 1 % (95 %, from the means of the runs).
local function queue_rows()
  package.path = "tests/spec/?.lua;" .. package.path
  local Q = require "queueing"
  for _, c in ipairs(Q.cases) do
    local sum, squares, n, half = 0, 0, 0, 1
    repeat
      local a, s, k = Q.load_of(c[6], c[2], c[3], c[4], 100 + n)
      local x = Q.mean_wait(a, Q.planned(a, s, k, c[2])) / c[5]
      sum, squares, n = sum + x, squares + x * x, n + 1
      if n >= 12 then half = 2.2 * math.sqrt(math.max(squares / n - (sum / n) ^ 2, 0) / (n - 1)) end
    until half <= 0.01 or n == 40
    local off = math.abs(sum / n - 1) * 100
    row(("plan, %s: mean wait of %.1f million jobs, off by"):format(c[1], n * c[6] / 1e6), ("%.2f"):format(off), "3", "%", off <= 3)
    row("  its 95 % interval", ("%.2f"):format(half * 100), "1", "%", half <= 0.01)
  end
end

-- One call of the default policy's route with 16 candidates: a plan with the policy against the same plan without one.
local function route_rows()
  local n, a, s, k, clients = 100000, {}, {}, {}, {}
  for i = 1, n do a[i], s[i], k[i] = i, 0.5, 1 end
  for i = 1, 16 do clients[i] = { slots = 1 } end
  local function cpu(policy)
    local began = core.cpu_ms()
    assert(core.plan { arrivals = a, services = s, kinds = k, cold = { 0 }, clients = clients, policy = policy })
    return core.cpu_ms() - began
  end
  local costs = {}
  for i = 1, 7 do costs[i] = (cpu "default" - cpu(false)) * 1000 / n end
  table.sort(costs)
  local us = costs[1]
  row(("route call of the default policy, 16 candidates, limits on (best of 7, worst %.1f)"):format(costs[7]), ("%.2f"):format(us), "6", "us", us <= 6)
end

-- A game's frames: what a step takes with eight busy servers that send previews (frames of 3 ms, so that the run is short).
local function frame_rows()
  local urls, stop = start(build .. "/moonpool sim --port 0 --count 8 --speed 4 --previews", 8)
  local out = sh(("%s/game --frames 10000 --frame-us 3000 %s"):format(build, table.concat(urls, " ")))
  stop()
  local p50, p99, worst = out:match "a step took (%d+) us at p50, (%d+) at p99, (%d+) at worst"
  print(("a step of 10,000 frames, 8 busy clients with previews (wall time): p50 %s us, p99 %s us, worst %s us"):format(p50, p99, worst))
end

truth_rows()
plan_rows()
queue_rows()
route_rows()
frame_rows()
cpu_rows()
queued_rows()
scale_rows()
start_rows()
idle_rows()
profile_rows()
