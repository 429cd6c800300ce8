-- Plans: against what can be computed exactly, against theory, and what odd questions get.
local H = require "helper"
local moonpool = require "moonpool"
local plan = moonpool.plan
local Q = require "queueing"
local load_of, planned, mean_wait = Q.load_of, Q.planned, Q.mean_wait

describe("a plan with one prompt per client and no delay", function()
  for _, servers in ipairs { 1, 3 } do
    for _, policy in ipairs { false, "default", "least_busy" } do
      it(("is first come, first served, to the microsecond (%d clients, policy %s)"):format(servers, tostring(policy)), function()
        local n = policy and 1000 or 10000
        local a, s, k = load_of(n, servers, 0.8, "exponential", 11)
        local r = planned(a, s, k, servers, policy)
        local free = {}                                    -- when each server is free again (Kiefer and Wolfowitz)
        for i = 1, servers do free[i] = 0 end
        for i = 1, n do
          local first = 1
          for c = 2, servers do
            if free[c] < free[first] then first = c end
          end
          local begun = math.max(a[i], free[first])
          free[first] = begun + s[i]
          if math.abs(begun - r.begun[i]) > 0.002 + i * 1e-6 then error(("job %d began at %f, not %f"):format(i, r.begun[i], begun)) end
        end
      end)
    end
  end

  for _, c in ipairs(Q.cases) do
    it("waits as theory says, within 3 %: " .. c[1], function()
      local a, s, k = load_of(c[6], c[2], c[3], c[4], 5)
      local wait = mean_wait(a, planned(a, s, k, c[2]))
      assert.is_true(math.abs(wait / c[5] - 1) < 0.03, ("%.4f, theory %.4f"):format(wait, c[5]))
    end)
  end
end)

describe("plan.run", function()
  it("takes a log's workflows and times, and its arrivals when none are given", function()
    local dir = H.folder "plan"
    local lines = {}
    for i = 1, 20 do
      local at = 1.7e12 + i * 1000
      local hash, took = i % 2 == 0 and "even" or "odd", i % 2 == 0 and 200 or 100
      if i <= 2 then took = took + 5000 end
      lines[i] = moonpool.json.encode { schema = 1, jobStatus = "completed", jobId = tostring(i), client = i % 2 == 0 and "a" or "b", structureHash = hash, queuedAt = at,
        startedAt = at, completedAt = at + took, executionTime = took, queueTime = 0, nodes = moonpool.json.array {} }
    end
    local path = dir .. "/log"
    H.write(path, table.concat(lines, "\n"))
    local r = assert(plan.run { log = path, clients = 2 })
    assert.equal(20, r.jobs)
    assert.is_true(r.makespan_ms > 19000 and r.makespan_ms < 40000)
    assert.is_true(r.clients[1].busy_ms + r.clients[2].busy_ms > 20 * 100 + 2 * 4800)          -- each workflow is cold at least once
    local more = assert(plan.run { log = path, clients = 2, jobs = 60 })
    assert.equal(60, more.jobs)
    assert.is_true(more.makespan_ms > 2.5 * r.makespan_ms)
    H.write(dir .. "/trace", "0\n1.5\n3\n")
    assert.equal(3, assert(plan.run { service = 100, arrivals = { trace = dir .. "/trace" } }).jobs)
    assert.equal(20, assert(plan.run { service = 100, arrivals = { trace = path } }).jobs)
  end)

  it("counts what a batch needs: makespan, cost, utilization", function()
    local r = assert(plan.run { service = 1000, clients = 4, arrivals = { batch = true }, jobs = 100, cost_per_hour = 3.6, delay_ms = 0 })
    assert.equal(25000, r.makespan_ms)
    assert.is_true(math.abs(r.utilization - 1) < 1e-9)
    assert.is_true(math.abs(r.cost - 0.1) < 1e-9)
    assert.equal(24000, r.wait.max)
    assert.equal(100, r.wait.count)
  end)

  it("knows faster clients, and hides the network behind second slots", function()
    local r = assert(plan.run { service = 1000, clients = { { speed = 1 }, { speed = 3 } }, arrivals = { batch = true }, jobs = 40 })
    assert.equal(10000, r.makespan_ms)
    assert.same({ 10, 30 }, { r.clients[1].runs, r.clients[2].runs })
    local one = assert(plan.run { service = 1000, arrivals = { batch = true }, jobs = 20, delay_ms = 100, slots = 1 })
    local two = assert(plan.run { service = 1000, arrivals = { batch = true }, jobs = 20, delay_ms = 100, slots = 2 })
    assert.is_true(one.makespan_ms > 23000)
    assert.is_true(two.makespan_ms < 20500)
  end)

  it("is the same again with the same seed, and another with another", function()
    local function p95(seed) return assert(plan.run { service = { mean_ms = 1000 }, arrivals = { rate_per_hour = 3000 }, jobs = 500, seed = seed }).wait.p95 end
    assert.equal(p95(1), p95(1))
    assert.is_true(p95(1) ~= p95(2))
  end)

  it("runs the policy that is given: one that holds a client back, one that refuses", function()
    local only_first = { route = function(_, clients)
      for _, c in ipairs(clients) do
        if c.url == "http://plan0" then return c end
      end
      return false
    end }
    local r = assert(plan.run { service = 100, clients = 3, arrivals = { batch = true }, jobs = 12, policy = only_first })
    assert.same({ 12, 0, 0 }, { r.clients[1].runs, r.clients[2].runs, r.clients[3].runs })
    local n = 0
    r = assert(plan.run { service = 100, arrivals = { batch = true }, jobs = 10, policy = { admit = function() n = n + 1; return n % 2 == 0 end } })
    assert.same({ 5, 5 }, { r.refused, r.wait.count })
  end)

  it("comes to a stop with words when the policy never lets a job go; a client of a plan cannot be asked", function()
    local r, err = plan.run { service = 100, arrivals = { batch = true }, jobs = 2, policy = { route = function() return false end } }
    assert.is_nil(r)
    assert.match("2 of 2 jobs wait", err.message)
    local words
    assert(plan.run { service = 100, arrivals = { batch = true }, jobs = 1, policy = { route = function(_, c)
      local _, e = pcall(function() return c[1]:object_info() end)
      words = tostring(e)
    end } })
    assert.match("a plan has no servers", words)
  end)

  it("shows a policy the time of the plan", function()
    local waited = 0
    assert(plan.run { service = 1000, arrivals = { batch = true }, jobs = 5, slots = 1, policy = { route = function(job) waited = math.max(waited, job.waited_ms) end } })
    assert.is_true(waited >= 4000 and waited < 5000, tostring(waited))
  end)
end)

describe("plan.fewest", function()
  it("finds the number below which the bound does not hold", function()
    local options = { service = 20000, arrivals = { rate_per_hour = 1000 }, jobs = 2000, wait_p95_ms = 30000 }
    local n, found = plan.fewest(options)
    assert.is_true(n >= 6 and found.wait.p95 <= 30000)
    options.wait_p95_ms = nil
    options.clients = n - 1
    assert.is_true(plan.run(options).wait.p95 > 30000)
  end)

  it("does not take refusal for success", function()
    local n, err = plan.fewest { service = 1, arrivals = { batch = true }, jobs = 5, wait_p95_ms = 1, policy = { admit = function() return false end } }
    assert.is_nil(n)
    assert.match("refuses every job", err.message)
  end)

  it("wants no list of clients", function()
    assert.error_matches(function() plan.fewest { service = 1, arrivals = { batch = true }, clients = { {} }, wait_p95_ms = 1 } end, "option 'clients'")
  end)

  it("gives up with words when nothing is enough", function()
    local n, err = plan.fewest { service = 20000, arrivals = { batch = true }, jobs = 2000, wait_p95_ms = 1, most = 4 }
    assert.is_nil(n)
    assert.match("with 4 clients 95 %% of the jobs still wait", err.message)
  end)
end)

describe("moonpool plan", function()
  local function command(arguments) return H.run(H.moonpool .. " plan " .. arguments) end

  it("answers in a table, policies side by side, or with a number of clients", function()
    local text, code = command "--service 20s --rate 500 --clients 4 --jobs 500 --policy default --policy round_robin --cost 2"
    assert.equal(0, code)
    assert.match("default", text)
    assert.match("round_r", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(utf8.len(line) <= 80, line) end
    text, code = command "--service 20s --rate 1000 --jobs 2000 --wait-p95 30s"
    assert.equal(0, code)
    assert.match("^%d+ clients are enough: 95 %% wait", text)
    text = command "--service 1s --batch 10 --clients 1,1,0.5 --format json"
    assert.equal(3, #moonpool.json.decode(text)[1].plan.clients)
    assert.equal(1, (select(2, command "--service 20s --batch 1000 --wait-p95 1ms --most 3")))
  end)

  it("says what is wrong, with exit code 2", function()
    local cases = {
      [""] = "%-%-log FILE .* or %-%-service TIME", ["--service 1x --batch 1"] = "duration",
      ["--service 1s"] = "%-%-rate JOBS_PER_HOUR, %-%-batch JOBS or %-%-trace FILE", ["--service 1s --batch 5 --clients none"] = "clients",
      ["--log /nowhere --batch 5"] = "/nowhere: No such file", ["--service 1s --rate 0"] = "%-%-rate: a number above 0",
      ["--service 1s --batch 5 --policy nobody"] = "nobody", ["--service 1s --trace /nowhere"] = "/nowhere", ["--service 1s --batch 5 --clients 20000"] = "clients",
      ["--service 1s --batch 5 --jobs 3"] = "without %-%-jobs", ["--service 1s --batch 5 --rate 3"] = "one of", ["--service 1s --batch 5 --clients 2.5"] = "list of their speeds",
      ["--service 1s --batch 0"] = "%-%-batch: 1 to",
      ["--service 1s --batch 5 --slots 0"] = "slots", ["--service 1s --batch 5 --wait-p95 1s --clients 3"] = "without %-%-clients",
    }
    for arguments, words in require "kit".sorted(cases) do
      local text, code = command(arguments)
      assert.equal(2, code, arguments .. "\n" .. text)
      assert.match(words, text)
    end
  end)
end)
