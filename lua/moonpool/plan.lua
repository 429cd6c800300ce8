-- moonpool/plan.lua: how many clients a load needs: the real pool and the chosen policy in virtual time (world/plan.h).
local core = require "moonpool.core"
local task = require "moonpool.task"

local M = {}

-- ---- chance: seeded, the same everywhere -------------------------------------------------------------------------------

local function generator(seed)
  local state = seed * 2862933555777941757 + 3037000493
  return function()
    state = state * 6364136223846793005 + 1442695040888963407
    local x = state ~ (state >> 33)
    return ((x * 0x2545F4914F6CDD1D) >> 11) / 2 ^ 53
  end
end

local function exponential(random, mean) return -mean * math.log(1 - random()) end

-- ---- what the options say -----------------------------------------------------------------------------------------------

local known = { log = true, service = true, clients = true, arrivals = true, jobs = true, policy = true, delay_ms = true, slots = true, cost_per_hour = true, seed = true, label = true }

local function check(options, more, what)
  if type(options) ~= "table" then error(what .. ": a table of options expected, got " .. type(options), 3) end
  for k in pairs(options) do
    if not known[k] and not (more and more[k]) then error(("%s: unknown option '%s'"):format(what, tostring(k)), 3) end
  end
  local seed = options.seed
  if seed ~= nil and (math.type(seed) ~= "integer" or seed < 0) then error(what .. ": option 'seed': a whole number from 0 expected", 3) end
  if options.log ~= nil and type(options.log) ~= "string" and type(options.log) ~= "userdata" then error(what .. ": option 'log': a path, or runs of profiles.load expected", 3) end
  if (options.log == nil) == (options.service == nil) then error(what .. ": either 'log' (a profile log) or 'service' (times) expected", 3) end
end

local function positive(v, name, what)
  if type(v) ~= "number" or not (v > 0 and v < math.huge) then error(("%s: option '%s': a number above 0 expected, got %s"):format(what, name, tostring(v)), 4) end
  return v
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

-- From a log: for each workflow the times of its warm runs, and what a cold one took on top. A job is drawn as the log has them.
local function from_log(log, label, what)
  local runs = log
  if type(log) == "string" then
    local err
    runs, err = require("moonpool.profiles").load(log, { label = label })
    if not runs then error(("%s: %s"):format(what, err.message), 4) end
  end
  local kinds, order, draws = {}, {}, {}
  local seen, times = {}, {}
  for i = 1, #runs do
    local r = runs[i]
    if r.startedAt and r.client and r.jobStatus == "completed" then
      local k = kinds[r.structureHash]
      if not k then
        k = { hash = r.structureHash, warm = {}, cold = {} }
        kinds[r.structureHash], order[#order + 1] = k, k
        k.number = #order
      end
      local warm = seen[r.client] == r.structureHash
      seen[r.client] = r.structureHash
      table.insert(warm and k.warm or k.cold, r.executionTime)
      draws[#draws + 1] = k.number
      times[#times + 1] = r.queuedAt
    end
  end
  if #draws == 0 then error(("%s: no completed runs in the log%s"):format(what, label and (" with the label '%s'"):format(label) or ""), 4) end
  local cold = {}
  for i, k in ipairs(order) do
    local usual = #k.warm > 0 and k.warm or k.cold
    cold[i] = #k.warm > 0 and #k.cold > 0 and math.max(0, median(k.cold) - median(k.warm)) or 0
    k.times = usual
  end
  table.sort(times)
  return { draw = function(random)
    local k = order[draws[math.floor(random() * #draws) + 1]]
    return k.times[math.floor(random() * #k.times) + 1], k.number
  end, cold = cold, times = times }
end

-- service: a number (ms, each the same), {mean_ms = n} (exponential), or a list of times in ms to draw from.
local function from_numbers(service, what)
  local draw
  if type(service) == "number" then
    positive(service, "service", what)
    draw = function() return service, 1 end
  elseif type(service) == "table" and service.mean_ms then
    local mean = positive(service.mean_ms, "service.mean_ms", what)
    draw = function(random) return exponential(random, mean), 1 end
  elseif type(service) == "table" and #service > 0 then
    for _, t in ipairs(service) do positive(t, "service", what) end
    draw = function(random) return service[math.floor(random() * #service) + 1], 1 end
  else error(what .. ": option 'service': a time in ms, {mean_ms = n} or a list of times expected", 4) end
  return { draw = draw, cold = { 0 } }
end

-- arrivals: {rate_per_hour = n} (at random), {batch = true} (all at once), {times_ms = {...}}, {trace = file}: a profile log, or a
-- file with one time in seconds per line; left out: as in the log.
local function arrivals_of(options, source, random, what)
  local a, n = options.arrivals, options.jobs
  local times = {}
  if n and (math.type(n) ~= "integer" or n < 1 or n > 10000000) then error(what .. ": option 'jobs': 1 to 10000000 expected", 4) end
  if a == nil then
    if not source.times then error(what .. ": option 'arrivals' is missing: {rate_per_hour = n}, {batch = true}, {times_ms = {...}} or {trace = file}", 4) end
    a = { times_ms = source.times }
  end
  if type(a) ~= "table" then error(what .. ": option 'arrivals': a table expected, got " .. type(a), 4) end
  if a.rate_per_hour then
    local gap, t = 3600000 / positive(a.rate_per_hour, "arrivals.rate_per_hour", what), 0
    for i = 1, n or 1000 do
      t = t + exponential(random, gap)
      times[i] = t
    end
    return times
  end
  if a.batch then
    for i = 1, n or (math.type(a.batch) == "integer" and a.batch) or 1000 do times[i] = 0 end
    return times
  end
  local list = a.times_ms
  if a.trace then
    list = {}
    local runs, err = require("moonpool.profiles").load(a.trace)
    if not runs then error(("%s: option 'arrivals.trace': %s"):format(what, err.message), 4) end
    for i = 1, #runs do list[i] = runs[i].queuedAt end
    if #list == 0 then
      for line in io.lines(a.trace) do
        local s = tonumber(line)
        if not s then error(("%s: option 'arrivals.trace': %s: neither a profile log nor a time in seconds: %s"):format(what, a.trace, line:sub(1, 40)), 4) end
        list[#list + 1] = s * 1000
      end
    end
  end
  if type(list) ~= "table" or #list == 0 then error(what .. ": option 'arrivals': rate_per_hour, batch, times_ms or trace expected", 4) end
  for i, t in ipairs(list) do
    if type(t) ~= "number" or not (t >= 0 and t < 1e15) then error(("%s: option 'arrivals': item %d: a time expected, got %s"):format(what, i, tostring(t)), 4) end
  end
  list = table.move(list, 1, #list, 1, {})
  table.sort(list)
  local span = list[#list] - list[1] + (list[#list] - list[1]) / math.max(1, #list - 1)
  for i = 1, n or #list do times[i] = list[(i - 1) % #list + 1] - list[1] + (i - 1) // #list * span end     -- more than there are: again
  return times
end

local function clients_of(options, n, what)
  local c, list = n or options.clients or 1, {}
  if math.type(c) == "integer" and c >= 1 and c <= 10000 then
    for i = 1, c do list[i] = { slots = options.slots } end
  elseif type(c) == "table" and #c > 0 then
    for i, one in ipairs(c) do
      if type(one) ~= "table" then error(("%s: option 'clients': item %d: a table expected"):format(what, i), 4) end
      list[i] = { speed = one.speed, priority = one.priority, slots = one.slots or options.slots }
    end
  else error(what .. ": option 'clients': a number from 1 to 10000, or a list of {speed, priority, slots} expected", 4) end
  return list
end

-- ---- figures ---------------------------------------------------------------------------------------------------------------

local function quantile(v, q)
  local at = q * (#v - 1)
  local i = math.floor(at)
  local low, high = v[i + 1], v[math.min(i + 2, #v)]
  return low + (high - low) * (at - i)
end

local function figures(v)
  if #v == 0 then return { count = 0 } end
  local sum = 0
  for _, x in ipairs(v) do sum = sum + x end
  table.sort(v)
  return { count = #v, mean = sum / #v, p50 = quantile(v, 0.5), p90 = quantile(v, 0.9), p95 = quantile(v, 0.95), p99 = quantile(v, 0.99), max = v[#v] }
end

local function source_of(options, what)
  return options.log and from_log(options.log, options.label, what) or from_numbers(options.service, what)
end

local function one(options, source, n, what)
  local random = generator(options.seed or 1)
  local arrivals = arrivals_of(options, source, random, what)
  local services, kinds = {}, {}
  for i = 1, #arrivals do services[i], kinds[i] = source.draw(random) end
  local clients = clients_of(options, n, what)
  local r, err = core.plan { arrivals = arrivals, services = services, kinds = kinds, cold = source.cold, clients = clients, delay_ms = options.delay_ms, seed = options.seed, policy = options.policy }
  if not r then return nil, err end
  local wait, total, busy, refused = {}, {}, 0, 0
  for i = 1, #arrivals do
    if r.begun[i] < 0 then refused = refused + 1
    else
      wait[#wait + 1] = math.max(0, r.begun[i] - arrivals[i])      -- the plan counts in whole microseconds
      total[#total + 1] = r.ended[i] - arrivals[i]
    end
  end
  local result = { jobs = #arrivals, refused = refused, wait = figures(wait), total = figures(total), makespan_ms = r.makespan, taken_back = r.taken_back, clients = {} }
  for i in ipairs(clients) do
    busy = busy + r.busy[i]
    result.clients[i] = { busy_ms = r.busy[i], runs = r.ran[i], utilization = r.makespan > 0 and r.busy[i] / r.makespan or 0 }
  end
  result.utilization = r.makespan > 0 and busy / (r.makespan * #clients) or 0
  result.client_hours = r.makespan * #clients / 3600000
  result.cost = options.cost_per_hour and result.client_hours * positive(options.cost_per_hour, "cost_per_hour", what) or nil
  return result
end

-- What would happen. options:
--   log             a profile log (path, or runs from profiles.load): workflows and times are drawn from it
--   service         instead: a time in ms, {mean_ms = n} (exponential), or a list of times
--   clients         how many (1), or a list of {speed = 1, priority = 0, slots = 2}
--   arrivals        {rate_per_hour = n}, {batch = true}, {times_ms = {...}}, {trace = file}; left out: as in the log
--   jobs            how many (1000, or as many as the arrivals have)
--   policy          as for pool ("default"); delay_ms (0, one way, to 300); slots; cost_per_hour; seed (1); label
-- A table: jobs, wait and total {mean, p50, p90, p95, p99, max} in ms, utilization, makespan_ms, client_hours, cost, taken_back,
-- refused (by the policy), clients[] {busy_ms, runs, utilization}. nil, err when the plan does not come to an end.
function M.run(options)
  check(options, nil, "plan.run")
  return one(options, source_of(options, "plan.run"), nil, "plan.run")
end

-- The fewest equal clients with which 95 % of the jobs wait no longer than wait_p95_ms: their number and the plan with
-- them; nil, err when not even `most` (256) are enough.
function M.fewest(options)
  check(options, { wait_p95_ms = true, most = true }, "plan.fewest")
  local bound, most = positive(options.wait_p95_ms, "wait_p95_ms", "plan.fewest"), options.most or 256
  if math.type(most) ~= "integer" or most < 1 or most > 10000 then error("plan.fewest: option 'most': 1 to 10000 expected", 2) end
  if type(options.clients) == "table" then error("plan.fewest: option 'clients': a list says how many they are; leave it out", 2) end
  local plans, source = {}, source_of(options, "plan.fewest")
  local function enough(n)
    local r, err = one(options, source, n, "plan.fewest")
    if not r then return nil, err end
    plans[n] = r
    if r.wait.count == 0 then return nil, task.error("policy", "plan.fewest: the policy refuses every job") end
    return r.wait.p95 <= bound
  end
  local low, high = 0, 1                                     -- `low` is too few; `high` is enough once the first loop is over
  while true do
    local yes, err = enough(high)
    if yes == nil then return nil, err end
    if yes then break end
    if high == most then return nil, task.error("full", ("plan.fewest: with %d clients 95 %% of the jobs still wait up to %.1f s"):format(most, plans[most].wait.p95 / 1000)) end
    low, high = high, math.min(high * 2, most)
  end
  while high - low > 1 do
    local middle = (low + high) // 2
    local yes, err = enough(middle)
    if yes == nil then return nil, err end
    if yes then high = middle else low = middle end
  end
  return high, plans[high]
end

-- The same load under several policies: a list of {policy, plan}.
function M.policies(options, policies)
  check(options, nil, "plan.policies")
  if type(policies) ~= "table" or #policies == 0 then error("plan.policies: a list of policies expected", 2) end
  local list, source = {}, source_of(options, "plan.policies")
  for i, policy in ipairs(policies) do
    local with = {}
    for k, v in pairs(options) do with[k] = v end
    with.policy = policy
    local r, err = one(with, source, nil, "plan.policies")
    if not r then return nil, err end
    list[i] = { policy = policy, plan = r }
  end
  return list
end

return M
