-- moonpool/cli/main.lua: what the interpreter does with its arguments.
local core = require "moonpool.core"
local task = require "moonpool.task"

local commands = { submit = "submit", check = "check", clients = "clients", help = "help", sim = "sim", report = "report", compare = "report", plan = "plan" }

local usage = [[
usage: moonpool [options] FILE.lua [args]    run a script; `arg` holds its arguments (also: moonpool run FILE.lua)
       moonpool COMMAND ...                  COMMAND --help says more

  submit workflow.json     run a workflow on all servers, with changes, sweeps and counts
  check workflow.json      everything that is wrong with it, also against a server
  clients [URL...]         what each server is, has and does
  sim                      simulated ComfyUI servers
  report QUESTION LOG      answers from profile logs: slow, cache, progress, timeline, job
  compare LOG LOG          is the second one slower?
  plan                     how many clients a load needs
  help [TOPIC]             the API: a class, a function or an option

  -e CODE            run Lua code               -l MODULE    require a module first
  -i                 lines of Lua from standard input, after the script if there is one; tasks go on meanwhile
  -                  run standard input         -v           print the version
  --policy F         pools of the script take this policy, by name or file, unless they name one (again for more: the
                     first that has an answer wins); SIGHUP loads it again
  --report F         a report by name or file becomes moonpool.report.default
  --profile-log F    pools of the script write their jobs' profiles to F, unless they name a log of their own
  --drain            at SIGINT and SIGTERM finish what was submitted, instead of canceling it

Exit codes: 0; 1 an error, told with its traceback; 2 wrong arguments; 130 interrupted. Commands: as their --help says.
]]

local drain = false

-- SIGINT and SIGTERM, the first one: stop sending, delete or interrupt what is ours (with --drain: finish it), say what
-- was done, leave with 130. The second one leaves at once.
local had_terminal = core.isatty(0)

local function on_signal()
  local moonpool = require "moonpool"
  local lost = false
  if core.hangup() then
    lost = had_terminal and not core.isatty(0)             -- the terminal is gone: as if told to stop
    if not lost then
      for _, pool in ipairs(moonpool.pools()) do
        local ok, err = pool:reload_policy()
        core.log(ok and "info" or "error", ok and "policy loaded again" or "policy not loaded again: " .. err.message)
      end
    end
  end
  if not core.interrupted() and not lost then return end
  local pools, began, before, last = moonpool.pools(), core.now(), {}, {}
  for i, pool in ipairs(pools) do
    if drain then io.stderr:write(("\ninterrupted: finishing %d jobs; once more to leave at once\n"):format(pool:stats().unfinished)) end
    before[i] = pool:stats()
    local function note() last[i] = pool:stats() end
    for _, name in ipairs { "job:completed", "job:failed", "job:canceled" } do pool:on(name, note) end
  end
  for _, pool in ipairs(pools) do pool:_stop(drain) end    -- all of them first: while one is waited for, no other goes on sending
  for i, pool in ipairs(pools) do
    pool:shutdown { drain = drain, timeout_ms = not drain and math.max(0, began + 5000 - core.now()) or nil }
    local s = drain and last[i] or before[i]
    io.stderr:write(("\ninterrupted: %d completed, %d failed, %d canceled\n"):format(s.completed, s.failed, s.canceled + s.unfinished))
  end
  io.stdout:flush()
  os.exit(130, true)
end

local interactive = false

local function run(chunk, ...)
  task.interpreter = true                                  -- errors nobody waits for are told at the end
  core.catch_signals()
  task.on_idle = on_signal
  local ok, words = xpcall(chunk, function(e)
    if type(e) == "number" then e = tostring(e) end
    if type(e) ~= "string" then
      local mt = getmetatable(e)
      e = mt and mt.__tostring and tostring(e) or ("(error object is a %s value)"):format(type(e))
    end
    return debug.traceback(e, 2)
  end, ...)
  if not ok then
    io.stderr:write("moonpool: ", tostring(words), "\n")
    return 1
  end
  if interactive then
    interactive = false
    require "moonpool.cli.repl"(on_signal)
    task.on_idle = on_signal
  end
  task.drain()
  return task.tell_unheard() > 0 and 1 or 0
end

-- What a file that is no Lua is, as far as its first bytes tell; nil.
local function nature(path)
  local f = io.open(path, "rb")
  local head = f and f:read(512) or ""
  if f then f:close() end
  if head:find "^\137PNG" then return "is a picture; the workflow in it is run by: moonpool submit " .. path end
  if head:find "^%s*{" then return "is JSON; a workflow is run by: moonpool submit " .. path end
  if head:find "%z" and not head:find "^\27Lua" then return "is no text" end
end

local function load_file(path)
  local chunk, words
  if path == "-" then
    local text = io.read "a":gsub("^#[^\n]*", "")          -- a first line #! is skipped, as in files
    chunk, words = load(text, "=stdin", "t")
  else
    chunk, words = loadfile(path, "bt")
  end
  if not chunk then
    local what = path ~= "-" and nature(path)
    local names = {}
    for k in pairs(commands) do names[#names + 1] = k end
    table.sort(names)
    local meant = not path:find "[./]" and require "moonpool.near"(path, names)
    io.stderr:write("moonpool: ", what and path .. " " .. what or words, meant and (" (did you mean the command '%s'?)"):format(meant) or "", "\n")
    return nil
  end
  return chunk
end

return function(argv)
  local i, code, ran = 1, nil, false
  while argv[i] and argv[i]:find "^%-." do
    local a = argv[i]
    if a == "-v" then
      print(require "moonpool"._VERSION .. ", " .. _VERSION)
      ran = true
    elseif a == "-h" or a == "--help" then
      io.write(usage)
      return 0
    elseif a == "-e" then
      i = i + 1
      code = argv[i]
      if not code then io.stderr:write("moonpool: -e needs code\n", usage); return 2 end
    elseif a:find "^%-e" then
      code = a:sub(3)
    elseif a == "-l" or a:find "^%-l" then
      local name = a:sub(3)
      if name == "" then i = i + 1; name = argv[i] end
      if not name then io.stderr:write("moonpool: -l needs a module\n", usage); return 2 end
      _G[name] = require(name)
      ran = true
    elseif a == "-i" then
      interactive = true
    elseif a == "--drain" then
      drain = true
    elseif a == "--profile-log" or a == "--policy" or a == "--report" then
      i = i + 1
      if not argv[i] then io.stderr:write("moonpool: ", a, " needs a file\n", usage); return 2 end
      local moonpool = require "moonpool"
      if a == "--profile-log" then moonpool._defaults.profile_log = argv[i]
      elseif a == "--policy" then
        local before = moonpool._defaults.policy
        if type(before) == "table" then before[#before + 1] = argv[i]
        else moonpool._defaults.policy = before and { before, argv[i] } or argv[i] end
      else
        local fn, words = moonpool.report.load(argv[i])
        if not fn then io.stderr:write("moonpool: --report: ", words, "\n"); return 2 end
        moonpool.report.default = fn
      end
    elseif a == "--" then
      i = i + 1
      break
    else
      io.stderr:write("moonpool: unknown option ", a, "\n", usage)
      return 2
    end
    i = i + 1
    if code then
      local keep = interactive
      interactive = false
      local chunk, words = load(code, "=(command line)", "t")
      if not chunk then io.stderr:write("moonpool: ", words, "\n"); return 1 end
      code, ran = nil, true
      local status = run(chunk)
      interactive = keep
      if status ~= 0 then return status end
    end
  end
  local name = argv[i]
  if not name and interactive then return run(function() end) end
  if not name then
    if ran then return 0 end
    if core.isatty(0) then io.write(usage); return 2 end
    name, argv = "-", { [0] = argv[0], "-" }                -- as lua: a script from standard input
    i = 1
  end
  local script = name == "run"                             -- also one whose name is that of a command
  if script then
    i = i + 1
    name = argv[i]
    if not name then io.stderr:write("moonpool: run needs a file\n", usage); return 2 end
  end
  local given = {}
  for k = 0, #argv do given[k - i] = argv[k] end
  _G.arg = given
  if commands[name] and not script then return require("moonpool.cli." .. commands[name])({ table.unpack(given) }, run, name) end
  local chunk = load_file(name)
  if not chunk then return 1 end
  return run(chunk, table.unpack(given))
end
