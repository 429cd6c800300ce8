-- moonpool/cli/submit.lua: `moonpool submit`: one workflow, many times, on all servers.
-- Exit codes: 0 all completed; 1 some did not, or files could not be saved; 2 wrong arguments; 130 interrupted.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"
local edit = require "moonpool.edit"
local json = core.json

local function fail(words)
  io.stderr:write("moonpool submit: ", tostring(words), "\n")
  return 2
end

local function key_of(o)
  if o.api_key_file then
    local text, words = require("moonpool.file").read(o.api_key_file)
    if not text then return nil, "--api-key-file: " .. words end
    return (text:gsub("%s+$", ""))
  end
  local key = os.getenv(o.api_key_env or "COMFY_API_KEY")
  if o.api_key_env and not key then return nil, "--api-key-env: the environment has no variable " .. o.api_key_env end
  return key
end

-- What --set, --set-file, --image, --sweep, --count and --seed make of the workflow: a list of {workflow =, fields =}.
local function variants(base, o)
  local axes = {}
  for _, words in ipairs(o.set) do
    local e, why = edit.parse(base, words)
    if not e then return nil, "--set: " .. why end
    base:input(e.id, e.input, e.value)
  end
  for _, words in ipairs(o.set_file) do
    local path, file = words:match "^(.-)=(.*)$"
    if not path then return nil, ("--set-file '%s': NODE.input=FILE expected"):format(words) end
    local text, why = require("moonpool.file").read(file)
    if not text then return nil, "--set-file: " .. why end
    if not utf8.len(text) then return nil, ("--set-file: %s is no text (UTF-8)"):format(file) end
    local e, wrong = edit.parse(base, path .. "=" .. text:gsub("\r?\n$", ""))
    if not e then return nil, "--set-file: " .. wrong end
    base:input(e.id, e.input, e.value)
  end
  for _, words in ipairs(o.image) do
    local path, file = words:match "^(.-)=(.*)$"
    if not path or file == "" then return nil, ("--image '%s': NODE.input=FILE expected"):format(words) end
    local id, input = edit.target(base, path)
    if not id then return nil, "--image: " .. input end
    local ok, err = base:attach_image(id, input, { path = file })
    if not ok then return nil, "--image: " .. tostring(err.message) end
  end
  for i, words in ipairs(o.sweep) do
    local s, why = edit.sweep(base, words)
    if not s then return nil, "--sweep: " .. why end
    for k = 1, i - 1 do
      if axes[k][1].id == s.id and axes[k][1].input == s.input then return nil, ("--sweep %s.%s: it is swept already"):format(s.id, s.input) end
    end
    axes[i] = { s, s.values }
  end
  local seeds, list = edit.seeds(base), {}
  local first = o.seed and o.seed ~= "random" and o.seed:find "^%d+$" and #o.seed < 21 and json.decode(o.seed)   -- up to 2^64-1
  if o.seed and not first and o.seed ~= "random" then return nil, "--seed: a whole number from 0 to 2^64-1, or random, expected, got " .. o.seed end
  if first and type(first) ~= "number" and o.count > 1 then return nil, "--seed: with --count at most 2^63-1" end
  if o.seed and #seeds == 0 then return nil, "--seed: no node has an input called seed or noise_seed with a number" end
  local combinations = require("moonpool.batch").sweep(axes)
  if #combinations * o.count > 1000000 then return nil, ("%d jobs are more than 1,000,000"):format(#combinations * o.count) end
  for n = 1, o.count do
    for _, row in ipairs(combinations) do
      local wf, fields = base:clone(), {}
      for s, v in pairs(row) do
        wf:input(s.id, s.input, v)
        fields[s.id .. "." .. s.input] = v
      end
      for _, at in ipairs(seeds) do
        local swept = fields[at[1] .. "." .. at[2]]
        if swept == nil and first then wf:input(at[1], at[2], type(first) == "number" and first + n - 1 or first)
        elseif swept == nil and (o.seed == "random" or o.count > 1) then wf:input(at[1], at[2], -1) end
      end
      list[#list + 1] = { workflow = wf, fields = fields, number = #list + 1 }
    end
  end
  return list
end

-- ---- what is seen meanwhile ---------------------------------------------------------------------------------------------

local function painter(pool, total)
  local out, overall, shown, done = io.stderr, {}, 0, 0
  if not core.isatty(2) then return function() end, function() end end
  local began = core.now()
  local function paint(force)
    if not force and core.now() - shown < 100 then return end
    shown = core.now()
    local part = done
    for _, v in pairs(overall) do part = part + v end
    local share = total > 0 and math.min(part / total, 1) or 1
    local full = math.floor(share * 30)
    local left = share > 0.01 and (", %.0f s left"):format((core.now() - began) / 1000 * (1 - share) / share) or ""
    out:write(("\r\27[K[%s%s] %d/%d%s"):format(("#"):rep(full), ("."):rep(30 - full), done, total, left))
    out:flush()
  end
  pool:on("job:progress", function(p)
    overall[p.job_id] = p.overall
    paint()
  end)
  return function(r)
    done, overall[r.job_id] = done + 1, nil
    paint(true)
  end, function() out:write "\r\27[K" end
end

local function summary(results, seconds, files)
  local by, names, states, class = {}, {}, { completed = 0, failed = 0, canceled = 0 }, {}
  for _, r in ipairs(results) do
    states[r.status] = (states[r.status] or 0) + 1
    local c = by[r.client or "-"]
    if not c then
      c = { jobs = 0, busy = 0 }
      by[r.client or "-"], names[#names + 1] = c, r.client or "-"
    end
    c.jobs = c.jobs + 1
    c.busy = c.busy + (r.profile and r.profile.executionTime or 0)
    for _, n in ipairs(r.profile and r.profile.nodes or {}) do
      if n.duration then class[n.type] = (class[n.type] or 0) + n.duration end
    end
  end
  table.sort(names)
  local lines = { ("%d jobs in %.1f s: %d completed, %d failed, %d canceled; %d files"):format(#results, seconds, states.completed, states.failed, states.canceled, files) }
  for _, name in ipairs(names) do
    lines[#lines + 1] = ("  %-30s %5d jobs, busy %.1f s (%.0f %%)"):format(name, by[name].jobs, by[name].busy / 1000, seconds > 0 and math.min(by[name].busy / 10 / seconds, 100) or 0)
  end
  local classes = {}
  for k in pairs(class) do classes[#classes + 1] = k end
  table.sort(classes, function(a, b) return class[a] > class[b] or class[a] == class[b] and a < b end)
  for i = 1, math.min(3, #classes) do lines[#lines + 1] = ("  %d. %-27s %9.1f s in all"):format(i, classes[i], class[classes[i]] / 1000) end
  return table.concat(lines, "\n") .. "\n"
end

local function as_json(item, r, paths)
  return json.encode {
    job_id = r.job_id, status = r.status, client = r.client, prompt_id = r.prompt_id, number = item.number, set = next(item.fields) and item.fields or nil,
    files = json.array(paths or {}), error = r.error and { kind = r.error.kind, message = r.error.message, node = r.error.node } or nil,
    total_ms = r.profile and r.profile.totalDuration, execution_ms = r.profile and r.profile.executionTime, seeds = r.auto_seeds and next(r.auto_seeds) and r.auto_seeds or nil,
  }
end

local name_fields = { number = true, job = true, node = true, client = true, filename = true, name = true, ext = true, index = true }

-- ---- the command ------------------------------------------------------------------------------------------------------------

local function submit(o)
  local moonpool = require "moonpool"
  local base, err
  if o.workflow == "-" then base, err = moonpool.workflow.from(io.read "a")
  else base, err = moonpool.workflow.load(o.workflow) end
  if not base then return fail(err.message) end
  local items, why = variants(base, o)
  if not items then return fail(why) end
  if o.dry_run then
    for _, item in ipairs(items) do io.write(item.workflow:to_json(), "\n") end
    io.stderr:write(("%d prompt%s would be sent\n"):format(#items, #items == 1 and "" or "s"))
    return 0
  end
  local config, unread = moonpool.config.load()
  if not config then return fail(unread.message) end
  local servers = command.servers(o.server, config)
  if #servers == 0 then return fail "no server: --server http://host:8188, MOONPOOL_SERVERS, or a moonpool.lua with servers" end
  for k, v in pairs(config.submit) do
    if k ~= "out" and k ~= "name" then return fail(("%s: submit.%s is not known (out and name are)"):format(config.from, tostring(k))) end
    if type(v) ~= "string" then return fail(("%s: submit.%s: a string expected, got %s"):format(config.from, k, type(v))) end
  end
  local out, pattern = o.out or config.submit.out, o.name or config.submit.name or "{number}_{filename}"
  for field in pattern:gmatch "{(.-)}" do
    if not name_fields[field] then return fail(("--name: there is no {%s} (number, job, node, client, filename, name, ext, index)"):format(field)) end
  end
  local options = { log_level = "error" }
  for k, v in pairs(config.pool) do options[k] = v end
  if #o.policy > 0 then options.policy = #o.policy == 1 and o.policy[1] or o.policy end
  if o.profile_log then options.profile_log = o.profile_log end
  if o.label and not options.profile_log then return fail "--label goes with --profile-log" end
  if o.label then options.profile_label = o.label end
  local key, no_key = key_of(o)
  if no_key then return fail(no_key) end
  local report
  if o.report then
    report, why = moonpool.report.load(o.report)
    if not report then return fail("--report: " .. why) end
  end
  local made, pool = pcall(moonpool.pool, options)
  if not made then return fail(pool) end
  for _, s in ipairs(servers) do
    if key and not s.options.api_key then s.options.api_key = key end
    local ok, client, wrong = pcall(pool.add_client, pool, s.url, s.options)
    if not ok or not client then
      pool:shutdown { timeout_ms = 0 }
      return fail(ok and wrong or client)
    end
  end
  local ready, trouble = pool:init()
  if not ready then
    pool:shutdown { timeout_ms = 0 }
    io.stderr:write("moonpool submit: ", trouble.message, "\n")
    return 1
  end
  local began = core.now()
  local digits = #tostring(#items)
  local by_job, results, files, bad = {}, {}, 0, 0
  local tell, clear = painter(pool, #items)
  for _, item in ipairs(items) do
    local job, refused = pool:submit(item.workflow, { priority = o.priority, metadata = { number = item.number, set = next(item.fields) and item.fields or nil } })
    if not job then
      bad = bad + 1
      io.stderr:write(("moonpool submit: job %d: %s\n"):format(item.number, refused.message))
    else by_job[job.id] = item end
  end
  for r in pool:results() do
    local item, paths = by_job[r.job_id], {}
    clear()                                                  -- else what is printed stands behind the bar
    if r.status == "completed" and out then
      local saved, lost = r:save(out, { pattern = (pattern:gsub("{number}", ("%0" .. digits .. "d"):format(item.number))) })
      if saved then paths = saved
      else
        bad = bad + 1
        io.stderr:write(("moonpool submit: job %d: %s\n"):format(item.number, lost.message))
      end
    elseif r.status ~= "completed" then
      bad = bad + 1
      io.stderr:write(("moonpool submit: job %d %s: %s\n"):format(item.number, r.status, r.error and r.error.message or ""))
    end
    files = files + #paths
    if o.json then
      io.write(as_json(item, r, paths), "\n")
      io.stdout:flush()
    else
      for _, path in ipairs(paths) do print(path) end
    end
    results[#results + 1] = r
    tell(r)
  end
  clear()
  local seconds = (core.now() - began) / 1000
  for _, r in ipairs(results) do
    if report and r.profile then io.stderr:write((report(r.profile))) end
  end
  if not report then io.stderr:write(#results == 1 and results[1].profile and moonpool.report.text(results[1].profile) or summary(results, seconds, files)) end
  pool:shutdown { timeout_ms = 2000 }
  return bad == 0 and 0 or 1
end

return function(args, run)
  local argparse = require "argparse"
  local parser = argparse("moonpool submit", "Runs a workflow on all servers, as often and in as many variations as you like.")
    :epilog [[
Nodes are named by id, by title or by class: --set "Positive.text=a lighthouse" --set KSampler.steps=30
Every combination of the sweeps is run, --count times; with --count above 1 and no --seed each job gets seeds of its own.
Servers: --server, else MOONPOOL_SERVERS, else moonpool.lua here or in ~/.config/moonpool.
Exit codes: 0 all completed, 1 some did not, 2 wrong arguments, 130 interrupted.]]
  parser:argument("workflow", "API-format JSON, or a PNG that ComfyUI saved; - is standard input.")
  parser:option("--server", "A ComfyUI server: http://host:8188 (again for more)."):count "*"
  parser:option("--set", "NODE.input=value."):count "*"
  parser:option("--set-file", "NODE.input=FILE: its text as the value."):count "*"
  parser:option("--sweep", "NODE.input=a,b,c (a comma inside: \\,) or whole numbers as 1..9:2."):count "*"
  parser:option("--image", "NODE.input=FILE: sent to each server, and named there."):count "*"
  parser:option("--count", "How many of each.", "1"):convert(command.number("count", 1, 1000000, true))
  parser:option("--seed", "The first seed, one more for each of --count; or random.")
  parser:option("--out", "Folder for the pictures; without it they stay on the servers.")
  parser:option("--name", "Names in it: {number} {job} {node} {client} {filename} {name} {ext} {index}.")
  parser:option("--priority", "Higher goes first.", "0"):convert(command.number("priority", -1e15, 1e15))
  parser:option("--policy", "A policy by name or file (again for more: the first that has an answer wins)."):count "*"
  parser:option("--report", "For each job, instead of the summary (of several) or the built-in report (of one): a report by name or file.")
  parser:option("--profile-log", "Append a line with each job's profile to this file.")
  parser:option("--label", "A word in each of those lines.")
  parser:option("--api-key-env", "Variable with a Comfy.org API key (COMFY_API_KEY).")
  parser:option("--api-key-file", "File with that key.")
  parser:flag("--json", "A line of JSON per job instead of the paths.")
  parser:flag("--dry-run", "Print the prompts that would be sent, a line each, and send nothing.")
  local o = command.parse(parser, args)
  if not o then return 2 end
  o.count, o.priority = tonumber(o.count), tonumber(o.priority)
  return command.run(run, submit, o)
end
