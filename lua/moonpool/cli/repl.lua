-- moonpool/cli/repl.lua: `moonpool -i`: lines of Lua as `lua -i` takes them, while tasks and pools go on.
local core = require "moonpool.core"
local task = require "moonpool.task"

-- Lines of standard input; waiting for one lets the loop run. nil at the end.
local function reader()
  local rest, ended = "", false
  return function()
    while true do
      local line, after = rest:match "^([^\n]*)\n(.*)$"
      if line then
        rest = after
        return line
      end
      if ended then
        local last = rest
        rest = ""
        return last ~= "" and last or nil
      end
      task.await(function(done)
        if not core.readable(done) then done() end         -- a plain file always has something
      end)
      local more = core.read_input()
      if more then rest = rest .. more else ended = true end
    end
  end
end

local function compile(text)
  local chunk = load("return " .. text, "=stdin", "t")
  if chunk then return chunk end
  return load(text, "=stdin", "t")
end

local function show(ok, ...)
  if not ok then
    io.stderr:write(tostring((...)), "\n")
  elseif select("#", ...) > 0 then
    local fine, words = pcall(print, ...)
    if not fine then io.stderr:write("error calling 'print': ", tostring(words), "\n") end
  end
end

local function words_of(e)
  if type(e) == "table" and getmetatable(e) and getmetatable(e).__tostring then e = tostring(e) end
  return type(e) == "string" and debug.traceback(e, 2) or ("(error object is a %s value)"):format(type(e))
end

-- Until the end of standard input. Ctrl-C ends what is waited for, and at an empty prompt the program.
return function(on_signal)
  local tty, next_line = core.isatty(0), reader()
  local function prompt(text)
    if tty then
      io.write(text)
      io.flush()
    end
  end
  if tty then print((require "moonpool"._VERSION) .. ", " .. _VERSION .. "; `moonpool` is loaded, tasks run while you type") end
  _G.moonpool = require "moonpool"
  while true do
    task.on_idle = on_signal
    prompt "> "
    local text = next_line()
    if not text then break end
    local chunk, words = compile(text)
    while not chunk and words:find "<eof>$" do
      prompt ">> "
      local more = next_line()
      if not more then break end
      text = text .. "\n" .. more
      chunk, words = compile(text)
    end
    if chunk then
      task.on_idle = function()
        if core.interrupted(true) then error("interrupted!", 0) end
      end
      show(xpcall(chunk, words_of))
      io.stdout:flush()
    else io.stderr:write(words, "\n") end
  end
  if tty then print "" end
end
