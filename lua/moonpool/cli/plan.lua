-- moonpool/cli/plan.lua: `moonpool plan`: what a load would do on so many clients, or how many it needs.
-- Exit codes: 0 answered; 1 no number of clients is enough; 2 wrong arguments.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"

local function fail(words)
  io.stderr:write("moonpool: ", words, "\n")
  return 2
end

-- "30s", "500ms", "2m", "1h" in ms; a bare number is seconds.
local function duration(text)
  local n, unit = text:match "^([%d.]+)(%a*)$"
  local factor = ({ ms = 1, s = 1000, [""] = 1000, m = 60000, min = 60000, h = 3600000 })[unit or "?"]
  if not tonumber(n) or not factor then return nil, text .. ": a duration like 30s, 500ms or 2m expected" end
  return tonumber(n) * factor
end

-- "2", or "1,1,0.5": speeds, one for each client.
local function clients(text)
  local n = tonumber(text)
  if n and math.tointeger(n) then return math.tointeger(n) end
  if not text:find "," then return nil, text .. ": a number of clients, or a list of their speeds (1,1,0.5) expected" end
  local list = {}
  for s in text:gmatch "[^,]+" do
    if not tonumber(s) then return nil, text .. ": a number of clients, or a list of their speeds expected" end
    list[#list + 1] = { speed = tonumber(s) }
  end
  return list
end

local function sheet_of(list, title)
  local answers = require "moonpool.report.answers"
  local rows = {}
  for i, x in ipairs(list) do
    local p = x.plan
    rows[i] = { name = x.policy, clients = #p.clients, p50 = p.wait.p50, p90 = p.wait.p90, p95 = p.wait.p95, p99 = p.wait.p99, total = p.total.p50, total95 = p.total.p95,
      used = p.utilization, makespan = p.makespan_ms, cost = p.cost }
  end
  local function plain(v) return v == nil and "-" or tostring(v) end
  local function money(v) return v and ("%.2f"):format(v) or "-" end
  local columns = { { "policy", "name", plain, true }, { "clients", "clients", plain }, { "wait p50", "p50", answers.time }, { "p90", "p90", answers.time }, { "p95", "p95", answers.time },
    { "p99", "p99", answers.time }, { "used", "used", answers.share }, { "makespan", "makespan", answers.time }, { "total p50", "total", answers.time }, { "p95", "total95", answers.time } }
  if list[1].plan.cost then table.insert(columns, 9, { "cost", "cost", money }) end
  local facts = { { "Jobs", tostring(list[1].plan.jobs) }, list[1].plan.refused > 0 and { "Refused by the policy", tostring(list[1].plan.refused) } or nil }
  return { title = title, answer = list, parts = { { facts = facts }, { title = "Waiting, and how busy they are", columns = columns, rows = rows } } }
end

-- What moonpool.plan says of its options, in the words of the command line.
local function as_options(words, o)
  local names = { ["arrivals.rate_per_hour"] = "--rate", ["arrivals.trace"] = "--trace", jobs = o.batch and "--batch" or "--jobs", cost_per_hour = "--cost", delay_ms = "--delay", wait_p95_ms = "--wait-p95",
    speed = "--clients: a speed", clients = "--clients", log = "--log", label = "--label", service = "--service", slots = "--slots", seed = "--seed", most = "--most", policy = "--policy" }
  words = words:gsub("^[%w_.]+:%d+: ", ""):gsub("^plan%.?%w*: ", "")
  words = words:gsub("^either 'log' .*", "--log FILE (a profile log) or --service TIME (what a job takes) expected")
  words = words:gsub("^option 'arrivals' is missing.*", "--rate JOBS_PER_HOUR, --batch JOBS or --trace FILE expected")
  return (words:gsub("option '([%w_.]+)'", names))
end

local function answer(o)
  local plan = require "moonpool.plan"
  local options = { log = o.log, label = o.label, clients = o.clients, jobs = o.jobs, delay_ms = o.delay, slots = o.slots, cost_per_hour = o.cost, seed = o.seed,
    service = o.service and (o.exponential and { mean_ms = o.service } or o.service) or nil,
    arrivals = o.rate and { rate_per_hour = o.rate } or o.batch and { batch = true } or o.trace and { trace = o.trace } or nil }
  local given = (o.rate and 1 or 0) + (o.batch and 1 or 0) + (o.trace and 1 or 0)
  if given > 1 then return fail "one of --rate, --batch and --trace" end
  if o.batch and o.jobs then return fail "--batch says how many jobs: without --jobs" end
  if o.exponential and not o.service then return fail "--exponential goes with --service" end
  if o.wait_p95 and o.clients ~= 1 then return fail "--wait-p95 searches the number of clients: without --clients" end
  if o.slots and (o.slots < 1 or o.slots > 64 or o.slots % 1 ~= 0) then return fail "--slots: 1 to 64 expected" end
  if o.batch then options.jobs = o.batch end
  local policies = #o.policy > 0 and o.policy or { "default" }
  local list, title = {}, "Plan"
  local ok, words = pcall(function()
    if o.wait_p95 then
      options.wait_p95_ms, options.most = o.wait_p95, o.most
      for i, policy in ipairs(policies) do
        options.policy = policy
        local n, found = plan.fewest(options)
        if not n then error(found, 0) end
        list[i] = { policy = policy, plan = found }
        title = ("%d client%s: 95 %% wait %s at most"):format(n, n == 1 and " is enough" or "s are enough", require "moonpool.report.answers".time(found.wait.p95))
      end
    else
      local err
      list, err = plan.policies(options, policies)
      if not list then error(err, 0) end
    end
  end)
  if not ok then
    if type(words) == "table" then
      io.stderr:write("moonpool: ", words.message, "\n")
      return 1
    end
    return fail(as_options(tostring(words), o))
  end
  local render = require "moonpool.report.render"
  io.write(render[o.format](sheet_of(list, #policies == 1 and title or "Plan"), { width = tonumber(os.getenv "COLUMNS") or 80, color = core.isatty(1) and not os.getenv "NO_COLOR" }))
  return 0
end

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool plan", "What a load would do on so many clients: the real pool and policy, in virtual time.")
  parser:option("--log", "A profile log: workflows and their times are drawn from it.")
  parser:option("--label", "Only its runs with this label.")
  parser:option("--service", "Instead of a log: what a job takes (20s)."):convert(duration)
  parser:flag("--exponential", "--service is a mean; times vary at random.")
  parser:option("--clients", "How many, or their speeds: 1,1,0.5.", "1"):convert(clients)
  parser:option("--rate", "Jobs per hour, at random (1000 of them, or --jobs)."):convert(tonumber)
  parser:option("--batch", "So many jobs at once."):convert(function(t) return math.tointeger(tonumber(t)) end)
  parser:option("--trace", "Arrivals from a profile log, or a file with a time in seconds per line.")
  parser:option("--jobs", "How many jobs."):convert(function(t) return math.tointeger(tonumber(t)) end)
  parser:option("--policy", "A policy, by name or file; several are shown side by side."):count "*"
  parser:option("--slots", "Prompts per client."):convert(tonumber)
  parser:option("--delay", "Network delay in ms, one way.", "0"):convert(tonumber)
  parser:option("--cost", "Of a client hour."):convert(tonumber)
  parser:option("--wait-p95", "Search: the fewest clients with which 95 % of the jobs wait no longer (30s)."):convert(duration)
  parser:option("--most", "The search gives up beyond so many.", "256"):convert(tonumber)
  parser:option("--seed", "Another one, another day.", "1"):convert(tonumber)
  parser:option("--format", "text, markdown, csv or json.", "text"):choices { "text", "markdown", "csv", "json" }
  local o = command.parse(parser, args)
  if not o then return 2 end
  for _, name in ipairs { "delay", "most", "seed", "clients" } do
    if type(o[name]) == "string" then o[name] = name == "clients" and clients(o[name]) or tonumber(o[name]) end
  end
  return command.run(run, answer, o)
end
