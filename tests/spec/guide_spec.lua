-- tests/spec/guide_spec.lua: each example and statement of the profiling guide our user gave us, carried over to Lua
-- and run against a simulated server. Headings are the guide's.
local moonpool = require "moonpool"
local H = require "helper"

describe("the profiling guide", function()
  local sim, pool, workflow
  local lines
  local function log(fmt, ...) lines[#lines + 1] = select("#", ...) > 0 and fmt:format(...) or fmt end
  local function printed() return table.concat(lines, "\n") end
  local function round(x) return math.floor(x + 0.5) end

  before_each(function()
    lines = {}
    sim = assert(moonpool.sim { speed = 20 })
    workflow = assert(moonpool.workflow.from(H.text_to_image))
    pool = moonpool.pool { profiling = true, log_level = "error" }
    assert(pool:add_client(sim.url, { affinity = { workflow } }))
    assert(pool:init())
  end)
  after_each(function()
    pool:shutdown()
    sim:close()
  end)

  local function run(wf)
    local result = pool:submit(wf or workflow):wait()
    assert.equal("completed", result.status)
    return result, result.profile
  end

  it("Overview: timing, progress, order, cached nodes and metadata of every node", function()
    local _, stats = run()
    assert.equal(7, #stats.nodes)
    for _, n in ipairs(stats.nodes) do
      assert.is_number(n.duration)
      assert.is_string(n.type)
      assert.is_false(n.cached)
    end
    local _, again = run(workflow:clone():input("3", "seed", 2))
    assert.equal(4, again.summary.cachedNodes)
    assert.same({ "Positive", "Negative" }, { stats.nodes[3].title, stats.nodes[4].title })
  end)

  it("Enabling Profiling: a pool option; off means no profile", function()
    local quiet <close> = moonpool.pool { profiling = false, log_level = "error" }
    assert(quiet:add_client(sim.url))
    assert.is_nil(quiet:submit(workflow):wait().profile)
    assert.is_table(quiet:submit(workflow, { profiling = true }):wait().profile)
  end)

  it("Accessing Profile Data", function()
    local job = pool:submit(workflow)
    local result = job:wait()
    if result.profile then
      log("Total execution time: %g ms", result.profile.totalDuration)
      log("Queue time: %g ms", result.profile.queueTime)
      log("Execution time: %g ms", result.profile.executionTime)
    end
    assert.matches("Total execution time: [%d.]+ ms\nQueue time: [%d.]+ ms\nExecution time: [%d.]+ ms", printed())
  end)

  it("Profile Statistics Structure: every field of both structures", function()
    local result, s = run()
    assert.equal(result.prompt_id, s.promptId)
    for _, k in ipairs { "totalDuration", "queueTime", "executionTime", "queuedAt", "startedAt", "completedAt" } do assert.is_number(s[k], k) end
    assert.is_true(math.abs(s.totalDuration - s.queueTime - s.executionTime) < 1e-6)
    assert.is_true(math.abs(s.completedAt - s.startedAt - s.executionTime) < 1e-2)
    assert.is_true(math.abs(s.startedAt - s.queuedAt - s.queueTime) < 1e-2)
    assert.is_true(math.abs(s.queuedAt / 1000 - os.time()) < 60)
    local sum = s.summary
    for _, k in ipairs { "totalNodes", "executedNodes", "cachedNodes", "failedNodes" } do assert.is_number(sum[k], k) end
    assert.equal(5, #sum.slowestNodes)
    assert.same({ "3" }, sum.progressNodes)
    local parts = 0
    for _, n in ipairs(s.nodes) do
      assert.is_string(n.nodeId)
      assert.is_number(n.startedAt)
      assert.is_number(n.completedAt)
      assert.is_boolean(n.cached)
      assert.equal("completed", n.status)
      assert.is_nil(n.error)
      parts = parts + n.duration
    end
    assert.is_true(math.abs(parts - (s.executionTime - s.gapTime + s.overlapTime)) < 1e-6)
  end)

  it("NodeExecutionProfile: a failed node says so, and why; those behind it are pending", function()
    sim:fail { class = "VAEDecode", message = "sizes do not match", times = 3 }
    local result = pool:submit(workflow, { max_attempts = 1 }):wait()
    assert.equal("failed", result.status)
    local status = {}
    for _, n in ipairs(result.profile.nodes) do status[n.type .. n.nodeId] = n end
    assert.equal("failed", status.VAEDecode8.status)
    assert.matches("sizes do not match", status.VAEDecode8.error)
    assert.equal("pending", status.SaveImage9.status)
    assert.equal(1, result.profile.summary.failedNodes)
  end)

  it("Example: Analyzing Slowest Nodes", function()
    local _, stats = run()
    log "Slowest Nodes:"
    for i, node in ipairs(stats.summary.slowestNodes) do log("%d. %s (Node %s): %gms", i, node.type, node.nodeId, node.duration) end
    assert.matches("^Slowest Nodes:\n1%. KSampler %(Node 3%): [%d.]+ms\n2%. ", printed())
    for i = 2, 5 do assert.is_true(stats.summary.slowestNodes[i - 1].duration >= stats.summary.slowestNodes[i].duration) end
  end)

  it("Example: Progress Tracking", function()
    local _, stats = run()
    for _, node in ipairs(stats.nodes) do
      if node.progressEvents and #node.progressEvents > 0 then
        log("%s (Node %s):", node.type, node.nodeId)
        log("  Total duration: %gms", node.duration)
        log("  Progress events: %d", #node.progressEvents)
        local first, last = node.progressEvents[1], node.progressEvents[#node.progressEvents]
        log("  Progress: %d/%d -> %d/%d", first.value, first.max, last.value, last.max)
        assert.is_number(first.timestamp)
      end
    end
    -- this version of the server reports at most ten times a second, but always the first and the last step
    assert.matches("^KSampler %(Node 3%):\n  Total duration: [%d.]+ms\n  Progress events: %d+\n  Progress: 1/8 %-> 8/8$", printed())
  end)

  it("Example: Execution Timeline", function()
    local _, stats = run()
    local timeline = {}
    for _, n in ipairs(stats.nodes) do
      if n.startedAt then timeline[#timeline + 1] = n end
    end
    table.sort(timeline, function(a, b) return a.startedAt < b.startedAt end)
    for _, node in ipairs(timeline) do
      log("+%gms | %s | %s | %gms", round(node.startedAt - stats.startedAt), node.cached and "CACHED" or "EXECUTED", node.type, node.duration)
    end
    assert.equal(7, #lines)
    assert.matches("^%+%d+ms | EXECUTED | CheckpointLoaderSimple | [%d.]+ms$", lines[1])
    assert.matches("^%+%d+ms | EXECUTED | SaveImage | [%d.]+ms$", lines[7])
  end)

  it("Example: Identifying Cached Nodes", function()
    run()
    local _, stats = run(workflow:clone():input("3", "seed", 2))
    log("Cache hit rate: %d/%d nodes", stats.summary.cachedNodes, stats.summary.totalNodes)
    for _, n in ipairs(stats.nodes) do
      if n.cached then log("%s (Node %s) - CACHED", n.type, n.nodeId) end
    end
    assert.equal("Cache hit rate: 4/7 nodes\nCheckpointLoaderSimple (Node 4) - CACHED\nEmptyLatentImage (Node 5) - CACHED\n"
      .. "CLIPTextEncode (Node 6) - CACHED\nCLIPTextEncode (Node 7) - CACHED", printed())
  end)

  it("Performance Impact: the server sees the same requests with profiling on and off", function()
    local function requests(profiling)
      local s = assert(moonpool.sim { speed = 50 })
      local p = moonpool.pool { profiling = profiling, log_level = "error" }
      assert(p:add_client(s.url))
      for i = 1, 5 do assert(p:submit(workflow:clone():input("3", "seed", i))) end
      for r in p:results() do assert.equal("completed", r.status) end
      local n = s:record().requests
      p:shutdown()
      s:close()
      return n
    end
    assert.equal(requests(false), requests(true))
  end)

  it("Performance Impact: enabled selectively", function()
    local development = os.getenv "MOONPOOL_ENV" == "development"
    local p <close> = moonpool.pool { profiling = development, log_level = "error" }
    assert(p:add_client(sim.url))
    assert.equal(development, p:submit(workflow):wait().profile ~= nil)
  end)

  it("Complete Example", function()
    local path = H.folder "guide" .. "/my-workflow.json"
    H.write(path, H.text_to_image)
    local p = moonpool.pool { profiling = true, log_level = "error" }
    assert(p:add_client(sim.url, { affinity = { assert(moonpool.workflow.load(path)) } }))
    assert(p:init())
    local wf = assert(moonpool.workflow.load(path)):input("6", "text", "a beautiful landscape"):input("3", "seed", 42)
    local result = p:submit(wf):wait()
    if result.profile then
      local stats = result.profile
      log "Performance Report:"
      log("Total Time: %gms", stats.totalDuration)
      log("Queue Time: %gms (%d%%)", stats.queueTime, round(stats.queueTime / stats.totalDuration * 100))
      log("Execution: %gms (%d%%)", stats.executionTime, round(stats.executionTime / stats.totalDuration * 100))
      log "Node Stats:"
      log("Executed: %d", stats.summary.executedNodes)
      log("Cached: %d", stats.summary.cachedNodes)
      log "Top 3 Slowest Nodes:"
      for i = 1, 3 do
        local node = stats.summary.slowestNodes[i]
        log("%d. %s: %gms (%d%%)", i, node.type, node.duration, round(node.duration / stats.executionTime * 100))
      end
    end
    p:shutdown()
    assert.matches("^Performance Report:\nTotal Time: [%d.]+ms\nQueue Time: [%d.]+ms %(%d+%%%)\nExecution: [%d.]+ms %(%d+%%%)\nNode Stats:\nExecuted: 7\nCached: 0\n"
      .. "Top 3 Slowest Nodes:\n1%. %w+: [%d.]+ms %(%d+%%%)\n2%. ", printed())
    assert.equal("a beautiful landscape", result.workflow:input("6", "text"))
  end)

  it("moonpool.report.text prints what the examples print, in one call", function()
    run()
    local _, stats = run(workflow:clone():input("3", "seed", 2))
    local text = moonpool.report.text(stats)
    for _, want in ipairs {
      "Total time: +[%d.]+ ms", "Queue time: +[%d.]+ ms %(%d+%%%)", "Execution: +[%d.]+ ms %(%d+%%%)", "Executed: 3   Cached: 4", "Slowest nodes\n  1%. %w+ %(node %d%): [%d.]+ ms %(%d+%%%)",
      "KSampler %(node 3%): [%d.]+ ms, %d+ events, 1/8 %-> 8/8", "Timeline\n  %+ +[%d.]+ ms | EXECUTED | KSampler | [%d.]+ ms", "Cache hit rate: 4/7 nodes\n  CheckpointLoaderSimple %(node 4%) CACHED",
    } do assert.matches(want, text) end
  end)
end)
