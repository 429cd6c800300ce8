-- moonpool/report/trace.lua: runs as trace events, for Perfetto and chrome://tracing (the Trace Event Format, JSON object
-- form; times in microseconds). One process per client with a lane for its jobs and lanes for nodes, as many as run side by
-- side; a process for the pool's queue, where each waiting is an asynchronous event. Arrows go from a job's submit to where it
-- ran; counters show how many wait, and how fast samplers go.
local core = require "moonpool.core"

local POOL = 1

local function lane(lanes, from, to)
  for i, busy_until in ipairs(lanes) do
    if busy_until <= from then
      lanes[i] = to
      return i
    end
  end
  lanes[#lanes + 1] = to
  return #lanes
end

return function(runs)
  local events, pids, first = {}, {}, math.huge
  local jobs = {}
  for i = 1, #runs do
    local r = runs[i]
    jobs[i] = r
    first = math.min(first, r.queuedAt)
  end
  local function us(ms) return math.floor((ms - first) * 1000 + 0.5) end
  local function add(e) events[#events + 1] = e end
  local function name(pid, tid, words)
    add { ph = "M", name = tid and "thread_name" or "process_name", pid = pid, tid = tid or 0, ts = 0, args = { name = words } }
  end
  name(POOL, nil, "queue")
  name(POOL, 1, "submitted")
  local next_pid, node_lanes, named = POOL, {}, {}
  local depth = {}
  for i, r in ipairs(jobs) do
    local client = r.client or "nobody"
    if not pids[client] then
      next_pid = next_pid + 1
      pids[client], node_lanes[client] = next_pid, {}
      name(next_pid, nil, client)
      name(next_pid, 1, "jobs")
    end
    local pid = pids[client]
    local start, stop = r.startedAt or r.completedAt, r.completedAt
    local words = { status = r.jobStatus, retryTime = r.retryTime, uploadTime = r.uploadTime }
    add { ph = "X", name = r.jobId, cat = "queue", pid = POOL, tid = 1, ts = us(r.queuedAt), dur = 0, args = words }
    add { ph = "b", name = r.jobId, cat = "waiting", id = i, pid = POOL, tid = 1, ts = us(r.queuedAt) }
    add { ph = "e", name = r.jobId, cat = "waiting", id = i, pid = POOL, tid = 1, ts = math.max(us(r.queuedAt), us(start)) }
    depth[#depth + 1] = { us(r.queuedAt), 1 }
    depth[#depth + 1] = { us(start), -1 }
    if r.startedAt then
      add { ph = "X", name = r.jobId, cat = "job", pid = pid, tid = 1, ts = us(start), dur = us(stop) - us(start),
        args = { promptId = r.promptId, structureHash = r.structureHash, status = r.jobStatus, metadata = r.metadata } }
      add { ph = "s", name = "job", cat = "flow", id = i, pid = POOL, tid = 1, ts = us(r.queuedAt) }
      add { ph = "f", bp = "e", name = "job", cat = "flow", id = i, pid = pid, tid = 1, ts = us(start) }
      local order = {}
      for _, n in ipairs(r.nodes) do
        if n.startedAt and n.completedAt then order[#order + 1] = n end
      end
      table.sort(order, function(a, b) return a.startedAt < b.startedAt end)
      for _, n in ipairs(order) do
        local at = lane(node_lanes[client], n.startedAt, n.completedAt) + 1
        if not named[client .. "\0" .. at] then
          named[client .. "\0" .. at] = true
          name(pid, at, at == 2 and "nodes" or ("nodes beside (%d)"):format(at - 1))
        end
        add { ph = "X", name = n.title or n.type or n.nodeId, cat = "node", pid = pid, tid = at, ts = us(n.startedAt), dur = us(n.completedAt) - us(n.startedAt),
          args = { nodeId = n.nodeId, type = n.type, status = n.status, error = n.error } }
        local before
        for _, p in ipairs(n.progressEvents or {}) do
          if before and p.timestamp > before.timestamp and p.value > before.value then
            add { ph = "C", name = "steps per second", pid = pid, tid = 0, ts = us(p.timestamp), args = { rate = (p.value - before.value) * 1000 / (p.timestamp - before.timestamp) } }
          end
          before = p
        end
        if before then add { ph = "C", name = "steps per second", pid = pid, tid = 0, ts = us(n.completedAt), args = { rate = 0 } } end
      end
    end
  end
  table.sort(depth, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] > b[2]) end)
  local waiting = 0
  for _, d in ipairs(depth) do
    waiting = waiting + d[2]
    add { ph = "C", name = "waiting", pid = POOL, tid = 0, ts = d[1], args = { jobs = waiting } }
  end
  return core.json.encode { displayTimeUnit = "ms", traceEvents = core.json.array(events) } .. "\n"
end
