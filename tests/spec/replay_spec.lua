-- tests/spec/replay_spec.lua: what we conclude from the traffic of real servers. The tables say what a person reads in
-- each recording; times are taken from the recordings themselves, by a second reader that knows nothing of ours.
local json = require "moonpool".json
local H = require "helper"

local replay, recordings = H.build .. "/replay", H.shared .. "/recordings/"
local versions = { "0.18.1", "2024-10" }

-- Per recording: how its jobs ended {jobs, ok, failed, interrupted, gone, refused}, then each job that has an end. nodes: id and
-- status in the order of the workflow. progress: how many events, first and last value, max. inner: expanded nodes.
local ran3 = "1 completed, 2 completed, 3 completed"
local blocked = "1 completed, 2 completed, 3 completed, 4 completed, 5 completed"
local expected = {
  normal_run = { ends = { 1, 1, 0, 0, 0, 0 }, { nodes = ran3 } },
  text_to_image_metadata = {
    ends = { 1, 1, 0, 0, 0, 0 },
    { nodes = "3 completed, 4 completed, 5 completed, 6 completed, 7 completed, 8 completed, 9 completed", progress = { ["3"] = { 3, 1, 3, 3 } } },
  },
  cached_rerun = {
    ends = { 3, 3, 0, 0, 0, 0 },
    { nodes = ran3 }, { nodes = "1 cached, 2 cached, 3 cached" }, { nodes = "11 cached, 12 cached, 13 cached" },
  },
  partly_cached = {
    ends = { 3, 3, 0, 0, 0, 0 },
    { nodes = ran3 }, { nodes = "1 cached, 2 cached, 3 completed" }, { nodes = "1 cached, 2 cached, 3 cached, 4 completed" },
  },
  node_error = {
    ends = { 2, 1, 1, 0, 0, 0 },
    { nodes = "1 completed, 2 failed, 3 pending", outcome = "node_error", errors = { ["2"] = 'it broke: é "quoted"\nsecond line' } },
    { nodes = ran3 },
  },
  execution_blocked = {
    ends = { 2, 2, 0, 0, 0, 0 },
    { nodes = blocked, errors = { ["2"] = "Execution Blocked: not today" } }, { nodes = blocked },
  },
  async_nodes = {
    ends = { 2, 1, 1, 0, 0, 0 },
    { nodes = "1 completed, 2 completed, 3 completed, 4 completed", progress = { ["1"] = { 3, 1, 3, 3 }, ["2"] = { 2, 1, 2, 2 } } },
    { nodes = "1 failed, 2 failed, 3 pending, 4 pending", outcome = "node_error", progress = { ["2"] = { 1, 1, 1, 1 } },
      errors = { ["1"] = "stopped because another node failed", ["2"] = "asynchronous node broke" } },
  },
  lazy_input = { ends = { 1, 1, 0, 0, 0, 0 }, { nodes = "1 pending, 2 completed, 3 completed, 4 completed" } },
  list_execution = {
    ends = { 2, 1, 1, 0, 0, 0 },
    { nodes = blocked, progress = { ["4"] = { 6, 1, 2, 2 } } },
    { nodes = "1 completed, 2 failed, 3 pending", outcome = "node_error",
      errors = { ["2"] = "ImageInvert.invert() missing 1 required positional argument: 'image'" } },
  },
  node_expansion = {
    ends = { 4, 3, 1, 0, 0, 0 },
    { nodes = "10 completed, 11 completed", inner = "10.0.0.1 completed, 10.0.0.2 completed, 10.0.0.3 completed",
      progress = { ["10.0.0.2"] = { 2, 1, 2, 2 }, ["10.0.0.3"] = { 2, 1, 2, 2 } }, old_progress = { ["10"] = { 4, 1, 2, 2 } } },
    { nodes = "10 cached, 11 cached" },
    { nodes = "10 completed, 11 completed", inner = "10.0.0.1 completed, 10.0.0.2 completed, 10.0.0.3 completed",
      progress = { ["10.0.0.2"] = { 2, 1, 2, 2 } }, old_progress = { ["10"] = { 2, 1, 2, 2 } } },
    { nodes = "10 failed, 11 pending", outcome = "node_error", errors = { ["10"] = "inner node broke" }, inner = "10.0.0.1 completed, 10.0.0.2 completed, 10.0.0.3 failed",
      progress = { ["10.0.0.2"] = { 2, 1, 2, 2 } }, old_progress = { ["10"] = { 2, 1, 2, 2 } } },
  },
  interrupt_running = {
    ends = { 1, 0, 0, 1, 0, 0 },
    { nodes = "1 failed, 2 pending", outcome = "interrupted", errors = { ["1"] = "interrupted" }, progress = { ["1"] = { 3, 1, 3, 20 } } },
  },
  reconnect_in_mid_job = {
    ends = { 2, 2, 0, 0, 0, 0 },
    { nodes = "1 completed, 2 completed", progress = { ["1"] = { 7, 1, 10, 10 } } },         -- 4 to 6 were lost with the socket
    { nodes = ran3, unseen = true },
  },
  two_clients = {
    ends = { 4, 2, 0, 0, 2, 0 },                                                              -- two are nobody's
    { nodes = "1 completed, 2 completed", progress = { ["1"] = { 2, 1, 2, 2 } } }, { nodes = "1 completed, 2 completed", progress = { ["1"] = { 2, 1, 2, 2 } } },
  },
  error_with_nan = {
    ends = { 2, 0, 2, 0, 0, 0 },
    { nodes = "1 completed, 2 failed, 3 pending", outcome = "node_error", errors = { ["2"] = "with nan" } },
    { nodes = "1 completed, 2 failed, 3 pending", outcome = "node_error", errors = { ["2"] = "with inf" } },
  },
  seed_64bit = {
    ends = { 5, 5, 0, 0, 0, 3 },
    { nodes = "1 completed" }, { nodes = "1 completed" }, { nodes = "1 completed" }, { nodes = "1 completed" }, { nodes = "1 completed" },
  },
}

local function each_line(version, name)
  local next_line = io.lines(recordings .. version .. "/" .. name .. ".jsonl")
  return function()
    local line = next_line()
    return line and json.decode(line)
  end
end

local function root(id) return id:match "^[^.]+" end

-- What the frames say about each accepted prompt, in the order of posting: when it was sent, began and ended; for each node when
-- the first frame showed it running and when one first showed that it no longer ran; every progress message.
local function watch(version, name)
  local list, by_id = {}, {}
  for line in each_line(version, name) do
    if line.method == "POST" and line.path == "/prompt" and line.status == 200 then
      local j = { id = line.response_json.prompt_id, sent = line.t_sent_ms, first = {}, ended = {}, order = {}, progress = {} }
      list[#list + 1], by_id[j.id] = j, j
    end
  end
  for line in each_line(version, name) do
    local m = line.text and json.decode(line.text)
    local d = m and m.data
    local j = d and d.prompt_id and by_id[d.prompt_id]
    local t = line.t_ms
    local kind = j and m.type or "none of ours"                                               -- status, features, executing without prompt_id
    if kind == "execution_start" then j.started = t
    elseif kind == "progress_state" then
      j.states = true
      for id, n in pairs(d.nodes) do
        if n.state == "running" then j.first[id] = j.first[id] or t
        elseif j.first[id] then j.ended[id] = j.ended[id] or t end
      end
    elseif kind == "executing" and d.node == json.null then j.finished = t
    elseif kind == "executing" then
      if not j.first[d.node] or not j.states then j.first[d.node] = j.first[d.node] or t end
      local here = root(d.node)
      if j.current and j.current ~= here and not j.states then j.ended[j.current] = t end
      if not j.order[here] then j.order[#j.order + 1] = here end
      j.order[here], j.current = true, here
    elseif kind == "progress" and d.node ~= json.null then
      j.progress[d.node] = j.progress[d.node] or {}
      table.insert(j.progress[d.node], d)
    elseif kind == "execution_success" or kind == "execution_interrupted" or kind == "execution_error" and d.exception_type ~= "ExecutionBlocked" then
      if j.current and not j.states then j.ended[j.current] = t end
      for id in pairs(j.first) do j.ended[id] = j.ended[id] or t end
    end
  end
  return list
end

local function profiles_of(version, name)
  local text, code = H.run(replay .. " --profile " .. recordings .. version .. "/" .. name .. ".jsonl")
  assert.equal(0, code, text)
  return assert(json.decode(text))
end

-- The recordings have tenths of a millisecond, profiles whole microseconds.
local function near(a, b, what) assert.is_true(a ~= nil and math.abs(a - b) < 0.002, ("%s: %s, expected %s"):format(what, a, b)) end

local function listed(nodes)
  local words = {}
  for i, n in ipairs(nodes) do words[i] = n.nodeId .. " " .. n.status end
  return table.concat(words, ", ")
end

-- Every node of a profile by id, expanded ones included.
local function by_id(p)
  local all = {}
  for _, n in ipairs(p.nodes) do
    all[n.nodeId] = n
    for _, k in ipairs(n.inner or {}) do all[k.nodeId] = k end
  end
  return all
end

local function check_nodes(p, want)
  assert.equal(want.nodes, listed(p.nodes))
  local count = { completed = 0, cached = 0, failed = 0, pending = 0 }
  for _, n in ipairs(p.nodes) do
    count[n.status] = count[n.status] + 1
    assert.equal(n.status == "cached", n.cached)
    local words = n.error and n.error:gsub("\n$", "")                                         -- newer servers end it in a newline
    assert.equal((want.errors or {})[n.nodeId], words)
  end
  local s = p.summary
  assert.same({ #p.nodes, count.completed, count.cached, count.failed, count.pending }, { s.totalNodes, s.executedNodes, s.cachedNodes, s.failedNodes, s.pendingNodes })
  assert.equal(want.outcome or "completed", p.attempts[1].outcome)
  assert.equal(1, #p.attempts)
  assert.equal(not want.unseen, p.exact)
end

local function check_inner(p, want)
  for _, n in ipairs(p.nodes) do
    assert.equal(n.nodeId == "10" and want.inner or nil, n.inner and listed(n.inner))
    for _, k in ipairs(n.inner or {}) do assert.same({ "10", "10", "10" }, { k.parentNode, k.realNode, k.displayNode }) end
  end
end

local function check_progress(p, want)
  local nodes = {}
  for id, n in pairs(by_id(p)) do
    local w, e = want and want[id], n.progressEvents
    assert.equal(w and w[1], e and #e, "events of node " .. id)
    if w then
      assert.same({ w[2], w[3], w[4], w[4] }, { e[1].value, e[#e].value, e[1].max, e[#e].max })
      assert.equal(0, n.progressDropped)
      for i, ev in ipairs(e) do
        assert.is_true(ev.timestamp >= n.startedAt and ev.timestamp <= n.completedAt)
        assert.is_true(i == 1 or ev.timestamp >= e[i - 1].timestamp)
      end
      if not id:find(".", 1, true) then nodes[#nodes + 1] = id end
    end
  end
  table.sort(nodes)
  assert.same(nodes, p.summary.progressNodes)
end

local function check_times(p, seen)
  near(p.queuedAt, seen.sent, "queuedAt")
  near(p.startedAt, seen.started, "startedAt")
  near(p.completedAt, seen.finished, "completedAt")
  near(p.totalDuration, seen.finished - seen.sent, "totalDuration")
  near(p.serverQueueTime, seen.started - seen.sent, "serverQueueTime")
  near(p.executionTime, seen.finished - seen.started, "executionTime")
  for id, n in pairs(by_id(p)) do
    if n.status == "completed" or n.status == "failed" then
      near(n.startedAt, seen.first[id], "start of node " .. id)
      if seen.states or not id:find(".", 1, true) then near(n.completedAt, seen.ended[id], "end of node " .. id) end
      assert.is_true(n.duration <= n.completedAt - n.startedAt + 1e-6)
    else
      assert.is_nil(n.startedAt)
      assert.is_nil(n.completedAt)
      assert.equal(n.status == "cached" and 0 or nil, n.duration)
    end
  end
  local nodes = by_id(p)
  for i = 2, #seen.order do assert.is_true(nodes[seen.order[i - 1]].startedAt <= nodes[seen.order[i]].startedAt, "order of node " .. seen.order[i]) end
end

local function check_sums(p)
  local function same(a, b, what) assert.is_true(math.abs(a - b) < 1e-6, what) end            -- exact, but for the last digit
  same(p.totalDuration, p.queueTime + p.executionTime, "queueTime + executionTime")
  same(p.queueTime, p.poolQueueTime + p.uploadTime + p.serverQueueTime + p.retryTime, "parts of queueTime")
  local sum = 0
  for _, n in ipairs(p.nodes) do sum = sum + (n.duration or 0) end
  same(sum, p.executionTime - p.gapTime + p.overlapTime, "sum of the nodes")
  assert.is_true(p.gapTime >= 0 and p.overlapTime >= 0)
  local s = p.summary
  assert.equal(s.totalNodes, s.executedNodes + s.cachedNodes + s.failedNodes + s.pendingNodes)
  for i, slow in ipairs(s.slowestNodes) do
    assert.is_true(i <= 5 and (i == 1 or slow.duration <= s.slowestNodes[i - 1].duration))
    same(slow.duration, by_id(p)[slow.nodeId].duration, "slowest node")
  end
end

if not H.has_shared() then
  describe("recorded traffic", function()
    it("is understood", function() pending "no ../shared folder" end)
  end)
  return
end

describe("recorded traffic", function()
  for _, version in ipairs(versions) do
    it("of " .. version .. " is explained whole", function()
      local text, code = H.run(replay .. " " .. recordings .. version .. "/*.jsonl")
      assert.equal(0, code, text)
      assert.is_nil(text:match "FAIL[^\n]*")
      local files = 0
      for line in text:gmatch "ok  [^\n]+" do
        files = files + 1
        assert.matches(" malformed 0 unknown 0 ", line, 1, true)
      end
      local there = H.run("ls " .. recordings .. version .. "/*.jsonl | wc -l")
      assert.equal(tonumber(there), files)
      assert.matches(files .. " files, 0 with something unexplained", text, 1, true)
    end)

    it("of " .. version .. ": how the jobs of each file ended", function()
      local text = H.run(replay .. " " .. recordings .. version .. "/*.jsonl")
      local ends = {}
      for name, rest in text:gmatch "ok   ([%w_]+)%.jsonl%s+jobs ([^;]+);" do
        local numbers = {}
        for n in rest:gmatch "%d+" do numbers[#numbers + 1] = tonumber(n) end
        ends[name] = numbers
      end
      for name, want in pairs(expected) do
        if io.open(recordings .. version .. "/" .. name .. ".jsonl") then assert.same(want.ends, ends[name], name) end
      end
    end)
  end

  it("that is broken is told, with exit code 1", function()
    local folder = H.folder "replay"
    H.write(folder .. "/bad.jsonl", '{"t_ms":1,"dir":"ws","conn":"A","text":"{\\"type\\":\\"executing\\","}\n')
    H.write(folder .. "/odd.jsonl", '{"t_ms":1,"dir":"ws","conn":"A","text":"{\\"type\\":\\"party\\",\\"data\\":{}}"}\n')
    for file, words in pairs { bad = "malformed frame", odd = "unknown message type" } do
      local text, code = H.run(replay .. " " .. folder .. "/" .. file .. ".jsonl")
      assert.equal(1, code)
      assert.matches("FAIL.*" .. words, text)
    end
  end)
end)

local names = {}
for name in pairs(expected) do names[#names + 1] = name end
table.sort(names)

for _, name in ipairs(names) do
  for _, version in ipairs(versions) do
    local file = io.open(recordings .. version .. "/" .. name .. ".jsonl")
    if file then
      file:close()
      describe(name .. " of " .. version, function()
        local want, profiles, seen = expected[name], nil, nil
        setup(function()
          profiles, seen = profiles_of(version, name), watch(version, name)
        end)

        it("has a profile of every job that ended, in the order of posting", function()
          assert.equal(#want, #profiles)
          for i, p in ipairs(profiles) do assert.equal(seen[i].id, p.promptId) end
        end)

        it("says of every node how it ended, and why", function()
          for i, p in ipairs(profiles) do check_nodes(p, want[i]) end
        end)

        it("has the expanded nodes under theirs, and no others", function()
          for i, p in ipairs(profiles) do check_inner(p, want[i]) end
        end)

        it("counts every step of progress once", function()
          for i, p in ipairs(profiles) do
            check_progress(p, version == "2024-10" and want[i].old_progress or want[i].progress)
            for id, events in pairs(seen[i].progress) do                                      -- and so do the messages
              local got = by_id(p)[id].progressEvents
              assert.equal(#events, #got)
              for k, d in ipairs(events) do assert.same({ d.value, d.max }, { got[k].value, got[k].max }) end
            end
          end
        end)

        it("has the times of the frames", function()
          for i, p in ipairs(profiles) do
            if not want[i].unseen then check_times(p, seen[i]) end
          end
        end)

        it("adds up", function()
          for _, p in ipairs(profiles) do check_sums(p) end
        end)
      end)
    end
  end
end

describe("in detail:", function()
  local function both(name, fn)
    for _, version in ipairs(versions) do
      local f = io.open(recordings .. version .. "/" .. name .. ".jsonl")
      if f then
        f:close()
        fn(profiles_of(version, name), version)
      end
    end
  end

  it("text_to_image_metadata loads a model in one node and spends its time in the sampler", function()
    local p = profiles_of("0.18.1", "text_to_image_metadata")[1]
    local slow = p.summary.slowestNodes
    assert.equal(5, #slow)
    assert.same({ "3", "KSampler", "4", "CheckpointLoaderSimple" }, { slow[1].nodeId, slow[1].type, slow[2].nodeId, slow[2].type })
    near(slow[1].duration, 385.9 - 178.2, "sampler")
    near(slow[2].duration, 167.5 - 129.1, "loader")
    assert.same({ "3" }, p.summary.progressNodes)
    for _, n in ipairs(p.nodes) do assert.equal(n.nodeId == "4" or nil, n.modelLoad) end
    assert.is_true(by_id(p)["3"].rate > 18 and by_id(p)["3"].rate < 20)                       -- two steps in 106 ms
    assert.same({ "4", "6", "3", "8", "9" }, p.criticalPath)
  end)

  it("node_error leaves the waiting of the next job out of its execution", function()
    both("node_error", function(list)
      assert.is_true(list[2].startedAt >= list[1].completedAt)
      near(list[2].queueTime, list[2].startedAt - list[2].queuedAt, "queueTime")
      assert.is_true(list[2].executionTime < 10)
    end)
  end)

  it("cached_rerun gives a fully cached run nothing but a gap", function()
    both("cached_rerun", function(list)
      for i = 2, 3 do
        near(list[i].gapTime, list[i].executionTime, "gapTime")
        assert.same({}, list[i].summary.slowestNodes)
        assert.same({}, list[i].criticalPath)
      end
      assert.equal(list[1].structureHash, list[2].structureHash)
      assert.not_equal(list[1].structureHash, list[3].structureHash)                          -- other node ids
    end)
  end)

  it("async_nodes overlap as long as both ran", function()
    local list = profiles_of("0.18.1", "async_nodes")
    near(list[1].overlapTime, 411.6 - 9.9, "overlap of the first run")
    near(list[2].overlapTime, 1085.4 - 783.0, "overlap of the second run")
    near(by_id(list[1])["1"].duration, 616.9 - 9.9, "node 1")
    near(by_id(list[1])["2"].duration, 411.6 - 9.8, "node 2")
  end)

  it("nodes of the old server never overlap, as it runs one at a time", function()
    for _, name in ipairs(names) do
      if name ~= "async_nodes" and name ~= "text_to_image_metadata" then
        for _, p in ipairs(profiles_of("2024-10", name)) do near(p.overlapTime, 0, name) end
      end
    end
  end)

  it("lazy_input does not count the wait for the lazy input, and runs the node once", function()
    both("lazy_input", function(list, version)
      local n = by_id(list[1])
      near(n["3"].duration, version == "2024-10" and (8.5 - 8.3) + (11.0 - 10.4) or (16.7 - 14.6) + (17.0 - 16.9), "node 3")
      assert.equal(1, n["3"].executions)
      assert.equal(0, n["1"].executions)
      assert.is_true(n["2"].startedAt >= n["3"].startedAt and n["2"].completedAt <= n["3"].completedAt)
    end)
  end)

  it("list_execution keeps the start of each element's steps", function()
    both("list_execution", function(list)
      local values = {}
      for i, e in ipairs(by_id(list[1])["4"].progressEvents) do values[i] = e.value end
      assert.same({ 1, 2, 1, 2, 1, 2 }, values)
    end)
  end)

  it("node_expansion lets the outer node last as long as its inner ones", function()
    both("node_expansion", function(list)
      for _, i in ipairs { 1, 3, 4 } do
        local outer = by_id(list[i])["10"]
        for _, k in ipairs(outer.inner) do assert.is_true(k.startedAt >= outer.startedAt and k.completedAt <= outer.completedAt) end
      end
      assert.equal(2, list[1].summary.totalNodes)
    end)
  end)

  it("node_expansion does not blame another node for what the inner node did", function()
    both("node_expansion", function(list)
      assert.not_matches("another node", by_id(list[4])["10.0.0.3"].error or "")
    end)
  end)

  it("reconnect_in_mid_job: a job of which nobody saw a frame has what history says, and the rest is marked", function()
    both("reconnect_in_mid_job", function(list, version)
      local p, history = list[2], nil
      for line in each_line(version, "reconnect_in_mid_job") do
        local entry = line.path == "/history/" .. p.promptId and line.response_json[p.promptId]
        history = entry or history
      end
      local began, ended
      for _, m in ipairs(history.status.messages) do
        if m[1] == "execution_start" then began = m[2].timestamp end
        if m[1] == "execution_success" then ended = m[2].timestamp end
      end
      near(p.executionTime, ended - began, "executionTime")
      assert.same({ "startedAt", "completedAt", "nodes" }, p.inferred)
      for _, n in ipairs(p.nodes) do
        assert.is_nil(n.startedAt)
        assert.is_nil(n.completedAt)
        assert.is_nil(n.duration)
      end
      assert.same({}, p.summary.slowestNodes)
    end)
  end)

  it("reconnect_in_mid_job: the first job has nothing inferred, as its node is seen at both ends", function()
    both("reconnect_in_mid_job", function(list)
      assert.is_nil(list[1].inferred)
      local values = {}
      for i, e in ipairs(by_id(list[1])["1"].progressEvents) do values[i] = e.value end
      assert.same({ 1, 2, 3, 7, 8, 9, 10 }, values)
    end)
  end)

  it("two_clients: the second job waits while the first one runs, and its own frames alone count", function()
    both("two_clients", function(list)
      assert.is_true(list[2].startedAt >= list[1].completedAt)
      assert.is_true(list[2].serverQueueTime > 490)
      assert.is_true(list[2].executionTime < 320)
    end)
  end)

  it("seed_64bit: numbers of any size have one hash, a text has another", function()
    both("seed_64bit", function(list)
      assert.equal(list[3].structureHash, list[5].structureHash)
      assert.equal(list[1].structureHash, list[2].structureHash)
      assert.not_equal(list[3].structureHash, list[4].structureHash)
    end)
  end)

  it("attempts name the prompt and its times", function()
    both("normal_run", function(list)
      local p, a = list[1], list[1].attempts[1]
      assert.same({ p.promptId, p.startedAt, p.completedAt, p.queuedAt }, { a.promptId, a.startedAt, a.endedAt, a.sentAt })
    end)
  end)
end)
