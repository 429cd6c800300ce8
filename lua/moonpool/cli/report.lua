-- moonpool/cli/report.lua: `moonpool report` and `moonpool compare`: answers from profile logs.
-- Exit codes: 0 answered; 1 compare --fail-over: something is slower, or more jobs did not complete; 2 wrong arguments, no such
-- log, no runs, nothing that could be tested, a formatter that failed.
local core = require "moonpool.core"
local command = require "moonpool.cli.command"

local function fail(words)
  io.stderr:write("moonpool: ", words, "\n")
  return 2
end

local function load(paths, label)
  local runs, err = require("moonpool.profiles").load(paths, { label = label })
  if not runs then return nil, tostring(err.message or err) end
  if #runs == 0 then
    local bad = runs:skipped()
    return nil, ("%s: no runs%s%s"):format(table.concat(paths, ", "), label and (" with the label '%s'"):format(label) or "", bad > 0 and (" (%d lines are no profile)"):format(bad) or "")
  end
  return runs
end

local function write(o, text)
  if not o.out then
    local ok, words = io.write(text)
    if ok then ok, words = io.stdout:flush() end
    return ok and true or nil, words
  end
  local f, words = io.open(o.out, "wb")
  if not f then return nil, words end
  local ok, err = f:write(text)
  if f:close() and ok then return true end
  return nil, err or o.out .. " cannot be written"
end

-- In the format that was asked for: a renderer of ours, or a Lua file that returns one: function(sheet, runs) -> text.
local function shown(sheet, o, runs)
  local render = require "moonpool.report.render"
  if o.format == "trace" or o.format == "html" then return require("moonpool.report." .. o.format)(runs, sheet) end
  local own = render.formats[o.format]
  if own then return own(sheet, { width = tonumber(os.getenv "COLUMNS") or 80, color = not o.out and core.isatty(1) and not os.getenv "NO_COLOR" }) end
  if not o.format:find "[/.]" then return nil, ("there is no format '%s' (text, markdown, csv, json, html, trace; or a Lua file that returns function(sheet, runs))"):format(o.format) end
  local found, fn = pcall(core.formatter, o.format)
  if not found then return nil, fn end
  local text, words = fn(core.json.encode(render.plain(sheet)), runs)
  if text then return text end
  io.stderr:write("moonpool: ", o.format, ": ", words, "\n")
  return render.text(sheet), nil, 2
end

-- Writes it; the exit code.
local function tell(sheet, o, runs)
  local text, words, code = shown(sheet, o, runs)
  if not text then return fail(words) end
  local ok, err = write(o, text)
  return ok and (code or 0) or fail(err)
end

local function formats(parser, more)
  parser:option("--format", "text, markdown, csv, json, " .. more .. "html, or a Lua file that returns function(sheet, runs) -> text.", "text")
  parser:option("--out", "File to write instead of standard output.")
end

local function answer(o)
  local answers = require "moonpool.report.answers"
  if o.format == "trace" and o.question ~= "timeline" then return fail "--format trace goes with `moonpool report timeline`" end
  local runs, words = load(o.log, o.label)
  if not runs then return fail(words) end
  if o.question == "job" then
    local wanted = o.job and o.job:find "^%d+$" and math.tointeger(tonumber(o.job))
    local found
    for i = 1, #runs do
      local r = runs[i]
      if not o.job or r.jobId == o.job or r.promptId == o.job then found = r end
    end
    found = found or (wanted and runs[wanted])             -- an id goes before a place
    if not found then return fail(("no job '%s' in %d runs (an id, a prompt id, or its place)"):format(o.job, #runs)) end
    if o.format ~= "json" and o.format ~= "text" then return fail "report job: --format text or json" end
    local good, text = true, core.json.encode(found) .. "\n"
    if o.format == "text" then good, text = pcall(require "moonpool.report.text", found) end
    if not good then return fail("this line is not whole: " .. tostring(text)) end
    local ok, err = write(o, text)
    return ok and 0 or fail(err)
  end
  return tell(answers[o.question](runs, o.by), o, runs)
end

local function compare(o)
  local over = 0
  if o.format == "trace" then return fail "--format trace goes with `moonpool report timeline`" end
  if o.fail_over then
    local n = o.fail_over:match "^([%d.]+)%%?$"
    over = n and tonumber(n)
    if not over then return fail("--fail-over: a share like 5% expected, got " .. o.fail_over) end
    over = over / 100
  end
  if not o.after and not (o.label_a and o.label_b) then return fail "compare: two logs, or one with --label-a and --label-b" end
  local a, words = load({ o.before }, o.label_a)
  if not a then return fail(words) end
  local b
  b, words = load({ o.after or o.before }, o.label_b)
  if not b then return fail(words) end
  local sheet = require("moonpool.report.answers").compare(a, b, over)
  local code = tell(sheet, o, b)
  if code ~= 0 or not o.fail_over then return code end
  if sheet.failing > over then
    io.stderr:write("moonpool: more jobs did not complete\n")
    return 1
  end
  if sheet.slower > 0 then return 1 end
  return sheet.tested > 0 and 0 or fail "nothing could be tested: too few runs on both sides"
end

return function(args, run, name)
  local argparse = require "argparse"
  local parser
  if name == "compare" then
    parser = argparse("moonpool compare", "Is the second log slower than the first? Per workflow and node class, with intervals and a test.")
    parser:argument("before", "A profile log.")
    parser:argument("after", "Another; left out: the same one, with --label-a and --label-b."):args "?"
    parser:option("--label-a", "Only runs with this label, of the first.")
    parser:option("--label-b", "Only runs with this label, of the second.")
    parser:option("--fail-over", "Exit with 1 when something is slower by this share or more: 5%.")
  else
    parser = argparse("moonpool report", "Answers from profile logs: where the time goes, what the cache does, how clients are used.")
    parser:argument("question", "slow, cache, progress, timeline, or job."):choices { "slow", "cache", "progress", "timeline", "job" }
    parser:argument("log", "Profile logs (pool option profile_log)."):args "+"
    parser:option("--by", "slow: by class, node, client or workflow.", "class"):choices { "class", "node", "client", "workflow" }
    parser:option("--label", "Only runs with this label.")
    parser:option("--job", "job: its id, its prompt id, or its place in the log; the last one if left out.")
  end
  formats(parser, name == "compare" and "" or "trace (timeline only), ")
  local o = command.parse(parser, args)
  if not o then return 2 end
  return command.run(run, name == "compare" and compare or answer, o, 2)
end
