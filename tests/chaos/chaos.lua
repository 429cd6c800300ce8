-- tests/chaos/chaos.lua: the pool on real sockets while servers are killed, stopped and restarted and the network
-- between them misbehaves, from a seed. Every fault ends, so every job must end as it should:
--   exactly one result and one last event for each job, with its metadata;
--   completed, with the right number of pictures; or failed as workflow_invalid when it was made to be; or canceled when
--   it was withdrawn. No other end is allowed, because no fault lasts;
--   every picture saved whole, in one file of its own, with its own job inside. The one excuse: a simulated server that
--   is killed takes its pictures with it, so a picture may be missing when its server was killed after the job was sent;
--   its profile adds up;
--   nothing ran twice that was sent once;
--   and in the end nothing is left: no work on the servers, no .part files, no descriptors, no memory.
--
--   moonpool tests/chaos/chaos.lua [--jobs N] [--servers N] [--seed S] [--faults kill,cut,...] [--limit SECONDS]
local here = arg[0]:match "^(.*)/" or "."
package.path = here .. "/?.lua;" .. package.path
local moonpool = require "moonpool"
local core = moonpool.core
local new_cluster, Faults, Random = require "cluster", require "faults", require "random"
local new_job, png = require "load", require "png"

local parser = require "argparse"("chaos.lua", "The pool on real sockets under faults.")
parser:option("--jobs", "How many, a multiple of four.", "2000"):convert(math.tointeger)
parser:option("--servers", "How many.", "8"):convert(math.tointeger)
parser:option("--seed", "What goes wrong and when.", "1"):convert(math.tointeger)
parser:option("--faults", "Kinds, separated by commas: all, none, or some of " .. table.concat(Faults.names, ", ") .. ".", "all")
parser:option("--speed", "Of the servers.", "1"):convert(tonumber)
parser:option("--limit", "Seconds, after which what is unfinished counts as hanging.", "170"):convert(tonumber)
parser:option("--log", "Log level of the pool.", "silent")
local o = parser:parse(arg)

local WINDOW = 300                     -- jobs submitted and unfinished
-- A leak grows all the time; what is only kept for later (the heap of a thread that parsed a large reply) is there once.
local LEAK = 1                         -- KB for each job, in every quarter of the run after the first
local KEPT = 16 * 1024                 -- KB from the end of the first quarter to the end, in all
local DESCRIPTORS = 0                  -- more than before the pool, after it was closed

local build = os.getenv "MOONPOOL_BUILD" or (arg[-1] or ""):match "^(.*)/" or "build"
-- AddressSanitizer keeps what was freed for a while, to catch uses of it; that much must be bounded for this to say
-- anything. At the end its leak checker looks for itself.
if build:find("asan", 1, true) then
  LEAK, KEPT = 8, 128 * 1024
  if not (os.getenv "ASAN_OPTIONS" or ""):find("quarantine_size_mb", 1, true) then LEAK, KEPT = math.huge, math.huge end
end

local dir = ("%s/tmp/chaos-%d"):format(build, o.seed)
local out = dir .. "/out"
os.execute(("rm -rf '%s' && mkdir -p '%s'"):format(dir, out))

local broken = {}
local function broke(fmt, ...) broken[#broken + 1] = fmt:format(...) end

local function read(path)
  local f = io.open(path, "rb")
  local text = f and f:read "a"
  if f then f:close() end
  return text
end
local own_pid = read "/proc/self/stat":match "^%d+"

local function lines(command)
  local p, list = assert(io.popen(command)), {}
  for line in p:lines() do list[#list + 1] = line end
  p:close()
  return list
end
-- What is open once curl has let go of connections whose other end is gone: it looks for these once a second, when it
-- makes a new one, and takes one that was reset for alive the first time. Sockets by their ends and state.
local function descriptors()
  for _ = 1, 2 do
    moonpool.sleep(1100)
    moonpool.http.request { url = "http://127.0.0.1:1/" }
  end
  moonpool.sleep(10)
  local sockets, list = {}, {}
  for _, line in ipairs(lines "cat /proc/net/tcp") do
    local from, to, state, inode = line:match "^%s*%d+: %x+:(%x+) %x+:(%x+) (%x%x) %S+ %S+ %x+ +%d+ +%d+ (%d+) "
    if inode then sockets[inode] = ("tcp %d to %d (state %s)"):format(tonumber(from, 16), tonumber(to, 16), state) end
  end
  os.execute(("ls -l /proc/%s/fd >%s/fds"):format(own_pid, dir))         -- with popen its pipe would count
  for line in io.lines(dir .. "/fds") do
    local what = line:match "%-> (.*)"
    if what then list[#list + 1] = sockets[what:match "^socket:%[(%d+)"] or what end
  end
  table.sort(list)
  return list
end
local function memory()
  collectgarbage()
  collectgarbage()
  return tonumber(read "/proc/self/status":match "RssAnon:%s+(%d+)")
end

-- ---- the run ------------------------------------------------------------------------------------------------------------

do                                     -- what the process makes once does not count as left behind
  local sim <close> = assert(moonpool.sim {})
  assert(moonpool.ws.connect { url = sim.url .. "/ws" }):close()
  assert(moonpool.http.request { url = sim.url .. "/queue" })
end
local fds_before = descriptors()

local began = core.now()
local cluster = new_cluster { build = build, dir = dir, servers = o.servers, speed = o.speed }
local by_name = {}
for _, sim in ipairs(cluster.sims) do by_name[sim.name] = sim end

local pool = moonpool.pool {
  seed = o.seed, log_level = o.log, completed_retention = 100, connect_timeout_ms = 1500, request_timeout_ms = 2000, unreachable_ms = 4000, reconnect_base_ms = 100,
  reconnect_cap_ms = 1000, poll_ms = 1000, settle_ms = 1000, retry_delay_ms = 200, recheck_ms = 1000,
}
for _, sim in ipairs(cluster.sims) do assert(pool:add_client(("http://127.0.0.1:%d"):format(sim.front), { name = sim.name })) end
assert(pool:init())

-- What became of each job, by number. Whatever else is known of a job is dropped when it has ended and is saved, and
-- what was saved is noted in a file, so that our own memory does not grow.
local state, files, ends = {}, {}, {}  -- letters; how many were asked for; last events
for i = 1, o.jobs do state[i], files[i], ends[i] = "-", 0, 0 end
local by_id = {}                       -- unfinished jobs, by the pool's id
local notes = assert(io.open(dir .. "/saved", "w"))
local retries, saves, delivered, quarters = 0, {}, 0, {}

for _, name in ipairs { "completed", "failed", "canceled" } do
  pool:on("job:" .. name, function(e)
    local job = by_id[e.job_id]
    if not job then return broke("the end of a job that had been delivered, or was never submitted: %s %s", tostring(e.job_id), name) end
    ends[job.number] = ends[job.number] + 1
    if ends[job.number] > 1 then broke("job %d ended %d times", job.number, ends[job.number]) end
    job.ended = name
  end)
end
pool:on("job:retrying", function() retries = retries + 1 end)

local load_random = Random(o.seed, "load")
local function submit(number)
  local job = new_job(number, load_random)
  local handle, err = pool:submit(job.workflow, { metadata = { number = number } })
  if not handle then return broke("job %d was not taken: %s", number, tostring(err)) end
  job.workflow = nil
  files[number] = job.files
  by_id[handle.id] = job
  if job.withdraw_ms then
    moonpool.spawn(function()
      moonpool.sleep(job.withdraw_ms)
      handle:cancel()
    end)
  end
end

local function adds_up(job, p)
  local sum = 0
  for _, n in ipairs(p.nodes) do sum = sum + (n.duration or 0) end
  local off = p.totalDuration - p.queueTime - p.executionTime
  local parts = p.queueTime - p.poolQueueTime - p.uploadTime - p.serverQueueTime - p.retryTime
  local nodes = sum - p.executionTime + p.gapTime - p.overlapTime
  if math.abs(off) > 0.01 or math.abs(parts) > 0.01 or math.abs(nodes) > 0.01 or p.gapTime < 0 or p.poolQueueTime < 0 or p.serverQueueTime < 0 or p.retryTime < 0 or p.executionTime < 0 then
    broke("the profile of job %d does not add up (%g, %g, %g)", job.number, off, parts, nodes)
  end
end

-- Saves with patience, as a script would whose servers come and go. Pictures that died with their server are excused.
local function save(result, job)
  local deadline = core.now() + 60000
  local sent = result.profile.attempts[#result.profile.attempts].sentAt
  while true do
    local paths, err = result:save(out)
    if paths then
      for _, path in ipairs(paths) do notes:write(job.number, " ", path, "\n") end
      state[job.number] = "S"
      return
    end
    local missing = err.kind == "server" and err.message:find("status 404", 1, true)
    if missing and cluster:killed_between(by_name[result.client], sent, core.wall()) then
      state[job.number] = "D"
      return
    end
    if missing or err.kind == "io" or err.kind == "gone" or core.now() > deadline then return broke("job %d could not be saved: %s", job.number, tostring(err)) end
    moonpool.sleep(100)
  end
end

local function take(result)
  local job = by_id[result.job_id]
  delivered = delivered + 1
  if not job then return broke("a second result of a job, or one that was never submitted: %s, %s", tostring(result.job_id), result.status) end
  by_id[result.job_id] = nil
  local number, kind = job.number, result.error and result.error.kind
  if not result.metadata or result.metadata.number ~= number then broke("job %d has the metadata of %s", number, result.metadata and tostring(result.metadata.number) or "nobody") end
  if job.ended ~= result.status then broke("job %d: its result says %s, its event %s", number, result.status, tostring(job.ended)) end
  if result.status == "completed" then
    if job.doomed then broke("job %d completed with a value that no server takes", number) end
    if #result.files ~= job.files then broke("job %d (%s) has %d files, not %d", number, job.kind, #result.files, job.files) end
    state[number] = "C"
    local own
    own = moonpool.spawn(function()
      local ok, words = xpcall(save, debug.traceback, result, job)
      if not ok then broke("job %d: save raised: %s", job.number, words) end
      saves[own] = nil                 -- a task that is kept keeps its result
    end)
    saves[own] = true
  elseif result.status == "canceled" and job.withdraw_ms and kind == "canceled" then
    state[number] = "W"
  elseif result.status == "failed" and job.doomed and kind == "workflow_invalid" then
    state[number] = "R"
  else
    state[number] = "X"
    broke("job %d (%s) ended as %s after %d attempts: %s", number, job.kind, result.status, result.attempts or 0, tostring(result.error))
  end
  if result.profile then adds_up(job, result.profile) end
end

local late = false
local watch = moonpool.spawn(function()
  while delivered < o.jobs and core.now() - began < o.limit * 1000 do moonpool.sleep(200) end
  if delivered >= o.jobs then return end
  late = true
  local stats = pool:stats()
  broke("hangs: after %d s %d jobs are unfinished (%d pending, %d assigned, %d running)", o.limit, stats.unfinished, stats.pending, stats.assigned, stats.running)
  for _, c in ipairs(pool:clients()) do broke("  %s: %s, load %s, %s", c.name, c.state, tostring(c.queued), c.problem or "no problem") end
  pool:shutdown { timeout_ms = 1000 }
end)

local names = {}
for name in (o.faults == "all" and table.concat(Faults.names, ",") or o.faults == "none" and "" or o.faults):gmatch "%a+" do names[#names + 1] = name end
local faults = Faults.start(cluster, o.seed, names)

local submitted = 0
local function top_up()
  while submitted < o.jobs and not late and pool:stats().unfinished < WINDOW do
    submitted = submitted + 1
    submit(submitted)
  end
end
top_up()
for result in pool:results() do
  take(result)
  top_up()
  if delivered % (o.jobs // 4) == 0 then quarters[#quarters + 1] = memory() end
end
watch:wait()
local words = faults:stop()
if words then broke("%s", words) end
while next(saves) do next(saves):wait() end
local worked = core.now() - began

-- ---- afterwards -----------------------------------------------------------------------------------------------------------

if not late then
  local from = core.now()
  pool:shutdown { drain = true, timeout_ms = 20000 }
  if core.now() - from > 15000 then broke("the pool was not quiet %d s after its last job", (core.now() - from) // 1000) end
end
local grown = {}
for i = 2, 4 do grown[i - 1] = quarters[i] and quarters[i] - quarters[i - 1] or 0 end
local leak, kept = math.min(table.unpack(grown)), grown[1] + grown[2] + grown[3]
if leak > math.max(512, LEAK * o.jobs / 4) or kept > KEPT then broke("memory grew by %d, %d and %d KB in the quarters of the run", table.unpack(grown)) end

words = cluster:complaints()
if words then broke("%s", words) end

-- What each server has run since it was last started, against its history: every attempt has a mark of its own.
local function get(sim, path)
  local reply, err = moonpool.http.request { url = ("http://127.0.0.1:%d%s"):format(sim.port, path), timeout_ms = 10000 }
  if not reply or reply.status ~= 200 then return broke("%s: %s: %s", sim.name, path, tostring(err or reply.status)) end
  return moonpool.json.decode(reply.body)
end
local function twice()
  for _, sim in ipairs(cluster.sims) do
    local record, history, queue = get(sim, "/moonpool/record"), get(sim, "/history"), get(sim, "/queue")
    local seen, n = {}, 0
    for _, entry in pairs(history or {}) do
      local mark = entry.prompt[4].moonpool
      if not seen[mark] then seen[mark], n = true, n + 1 end
    end
    if record and record.prompts > n then broke("%s ran %d prompts for %d that were sent", sim.name, record.prompts, n) end
    if queue and #queue.queue_running + #queue.queue_pending > 0 then broke("%s still holds work", sim.name) end
  end
end
moonpool.spawn(twice):wait()

notes:close()
local owner, saved, count = {}, {}, { ["-"] = 0, S = 0, C = 0, D = 0, W = 0, R = 0, X = 0 }
for line in io.lines(dir .. "/saved") do
  local number, path = line:match "^(%d+) (.*)$"
  number = tonumber(number)
  if owner[path] then broke("%s was saved for job %d and for job %d", path, owner[path], number) end
  owner[path], saved[number] = number, (saved[number] or 0) + 1
end
for number = 1, o.jobs do
  local s = state[number]
  count[s] = count[s] + 1
  if s == "-" and not late then broke("job %d gave no result", number) end
  if (saved[number] or 0) ~= (s == "S" and files[number] or 0) then broke("job %d: %d files were saved, not %d", number, saved[number] or 0, files[number]) end
end
local n_files = 0
for _, name in ipairs(lines(("ls '%s'"):format(out))) do
  local path = out .. "/" .. name
  local bytes = read(path) or ""
  local texts, why = png.texts(bytes)
  local shown = texts and tonumber((texts.prompt or ""):match '"chaos%-(%d+)"')
  n_files = n_files + 1
  if name:find "%.part$" then broke("%s was left behind", path)
  elseif not texts then broke("%s (%d bytes) is not whole: %s", path, #bytes, why)
  elseif not shown then broke("%s shows no job", path)
  elseif owner[path] and owner[path] ~= shown then broke("%s of job %d shows job %d", path, owner[path], shown)
  elseif not owner[path] and state[shown] ~= "D" then broke("%s belongs to nobody", path) end     -- D: the first of two were saved
  owner[path] = nil
end
for path, number in pairs(owner) do broke("%s of job %d is gone", path, number) end

cluster:stop()
local fds = descriptors()
if #fds > #fds_before + DESCRIPTORS then broke("%d descriptors, %d before: %s", #fds, #fds_before, table.concat(fds, ", ")) end

local MOST = 20
for i = 1, math.min(#broken, MOST) do print("chaos: " .. broken[i]) end
if #broken > MOST then print(("chaos: and %d more"):format(#broken - MOST)) end
print(("chaos: %d jobs, %d completed, %d files (those of %d jobs died with their server), %d refused as meant, %d withdrawn; %d retries; %s; seed %d, %.1f s, memory %+d KB, descriptors %+d; %s"):format(
  delivered, count.S + count.C + count.D, n_files, count.D, count.R, count.W, retries, faults:text(), o.seed, worked / 1000, kept, #fds - #fds_before, #broken == 0 and "ok" or "BROKEN"))
if #broken == 0 then os.execute(("rm -rf '%s'"):format(dir)) else print("chaos: what there is stands in " .. dir) end
os.exit(#broken == 0 and 0 or 1, true)
