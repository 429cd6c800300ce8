-- moonpool/cli/main.lua: what the interpreter does with its arguments.
local core = require "moonpool.core"
local task = require "moonpool.task"

local commands = { sim = "sim", report = "report", compare = "report", plan = "plan" }

local usage = [[
usage: moonpool FILE.lua [args]     run a script; `arg` holds its arguments
       moonpool -e CODE             run Lua code
       moonpool -l MODULE           require a module first
       moonpool -                   run standard input
       moonpool --drain ...         at SIGINT and SIGTERM finish what was submitted, instead of canceling it
       moonpool --profile-log F ... pools of the script write their jobs' profiles to F, unless they name a log of their own
       moonpool -v                  print the version
       moonpool sim [options]       simulated ComfyUI servers (moonpool sim --help)
       moonpool report QUESTION LOG answers from profile logs: slow, cache, progress, timeline, job
       moonpool compare LOG LOG     is the second one slower?
       moonpool plan [options]      how many clients a load needs
]]

local drain = false

-- SIGINT and SIGTERM, the first one: stop sending, delete or interrupt what is ours (with --drain: finish it), say what
-- was done, leave with 130. The second one leaves at once.
local function on_signal()
  if not core.interrupted() then return end
  local moonpool = require "moonpool"
  for _, pool in ipairs(moonpool.pools()) do
    local last
    if drain then io.stderr:write(("\ninterrupted: finishing %d jobs; once more to leave at once\n"):format(pool:stats().unfinished)) end
    local before = pool:stats()
    local function note() last = pool:stats() end
    for _, name in ipairs { "job:completed", "job:failed", "job:canceled" } do pool:on(name, note) end
    pool:shutdown { drain = drain, timeout_ms = not drain and 5000 or nil }
    last = drain and last or before
    io.stderr:write(("\ninterrupted: %d completed, %d failed, %d canceled\n"):format(last.completed, last.failed, last.canceled + last.unfinished))
  end
  io.stdout:flush()
  os.exit(130, true)
end

local function run(chunk, ...)
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
  task.drain()
  return task.tell_unheard() > 0 and 1 or 0
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
    io.stderr:write("moonpool: ", words, "\n")
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
    elseif a == "--drain" then
      drain = true
    elseif a == "--profile-log" then
      i = i + 1
      if not argv[i] then io.stderr:write("moonpool: --profile-log needs a file\n", usage); return 2 end
      require "moonpool"._defaults.profile_log = argv[i]
    elseif a == "--" then
      i = i + 1
      break
    else
      io.stderr:write("moonpool: unknown option ", a, "\n", usage)
      return 2
    end
    i = i + 1
    if code then
      local chunk, words = load(code, "=(command line)", "t")
      if not chunk then io.stderr:write("moonpool: ", words, "\n"); return 1 end
      code, ran = nil, true
      local status = run(chunk)
      if status ~= 0 then return status end
    end
  end
  local name = argv[i]
  if not name then
    if ran then return 0 end
    if core.isatty(0) then io.write(usage); return 2 end
    name, argv = "-", { [0] = argv[0], "-" }                -- as lua: a script from standard input
    i = 1
  end
  local given = {}
  for k = 0, #argv do given[k - i] = argv[k] end
  _G.arg = given
  if commands[name] then return require("moonpool.cli." .. commands[name])({ table.unpack(given) }, run, name) end
  local chunk = load_file(name)
  if not chunk then return 1 end
  return run(chunk, table.unpack(given))
end
