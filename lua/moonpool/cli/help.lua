-- moonpool/cli/help.lua: `moonpool help [TOPIC]`: the API reference, from the same source as the editor types.
-- Exit codes: 0 found; 1 there is no such topic.
local near = require "moonpool.near"
local reference = require "moonpool.reference"

local function wrapped(text, indent, width)
  local lines, line = {}, indent
  for word in text:gmatch "%S+" do
    if #line > #indent and #line + 1 + #word > width then
      lines[#lines + 1], line = line, indent
    end
    line = #line > #indent and line .. " " .. word or line .. word
  end
  if #line > #indent then lines[#lines + 1] = line end
  return lines
end

local function short(kind) return (kind:gsub("moonpool%.", "")) end

local function tell_function(f, add)
  add(reference.signature(f))
  for _, line in ipairs(wrapped(f.text, "    ", 80)) do add(line) end
  for _, p in ipairs(f.params) do
    for i, line in ipairs(wrapped(("%s%s: %s  %s"):format(p.name, p.optional and "?" or "", short(p.type), p.text), "      ", 80)) do add(i == 1 and line or "  " .. line) end
  end
end

local function tell_class(c, api, add)
  add(short(c.name) .. (c.text ~= "" and ": " .. c.text or ""))
  for _, f in ipairs(c.fields) do
    for i, line in ipairs(wrapped(("%s%s: %s  %s"):format(f.name, f.optional and "?" or "", short(f.type), f.text), "    ", 80)) do add(i == 1 and line or "    " .. line) end
  end
  local last = c.name:match "[%w_]+$"
  for _, f in ipairs(api.functions) do
    if f.owner == last then add "" tell_function(f, add) end
  end
end

-- The lines about a topic, and all topics.
local function find(topic)
  local api, lines, topics = reference.load(), {}, {}
  local function add(line) lines[#lines + 1] = line end
  local low, module = topic:lower(), topic:lower():match "^moonpool[.:](.*)$"
  for _, f in ipairs(module and api.functions or {}) do     -- moonpool.pool is the function, Pool the class
    if not f.method and reference.signature(f):match "^[^(]+":lower() == low then tell_function(f, add) return lines, topics end
  end
  low = module or low
  local function found(name)
    topics[#topics + 1] = name
    return name:lower() == low
  end
  for _, c in ipairs(api.classes) do
    if found((short(c.name):gsub("Lib$", ""))) then tell_class(c, api, add) add "" end
  end
  for _, f in ipairs(api.functions) do
    local owner = f.owner:lower():gsub("lib$", "")
    if found(f.name) or low == owner .. ":" .. f.name:lower() or low == owner .. "." .. f.name:lower() then tell_function(f, add) add "" end
  end
  if #lines == 0 then
    for _, c in ipairs(api.classes) do
      for _, f in ipairs(c.fields) do
        topics[#topics + 1] = f.name
        if f.name:lower() == low then
          for i, line in ipairs(wrapped(("%s.%s: %s  %s"):format(short(c.name), f.name, short(f.type), f.text), "", 80)) do add(i == 1 and line or "    " .. line) end
        end
      end
    end
  end
  return lines, topics
end

local function overview()
  local api, names, functions = reference.load(), {}, {}
  for _, c in ipairs(api.classes) do names[#names + 1] = short(c.name) end
  for _, f in ipairs(api.functions) do
    if not f.method then functions[#functions + 1] = reference.signature(f):match "^[^(]+" end
  end
  print "moonpool help TOPIC: a class, a function or method, or an option:"
  print "    moonpool help Pool      moonpool help submit      moonpool help cooldown_ms"
  print "\nClasses, option tables, events and results:"
  for _, line in ipairs(wrapped(table.concat(names, ", "), "    ", 80)) do print(line) end
  print "\nFunctions:"
  for _, line in ipairs(wrapped(table.concat(functions, ", "), "    ", 80)) do print(line) end
  print "\nCommands, each with --help: submit, check, clients, sim, report, compare, plan"
end

local commands = { submit = true, check = true, clients = true, sim = true, report = true, compare = true, plan = true }

return function(args)
  local topic = args[1]
  if not topic or topic == "-h" or topic == "--help" then overview() return 0 end
  if commands[topic] then
    print(("moonpool %s is a command: moonpool %s --help tells of it."):format(topic, topic))
    if topic ~= "submit" and topic ~= "plan" and topic ~= "sim" then return 0 end
    print ""
  end
  local lines, topics = find(topic)
  if #lines == 0 then
    local meant, hint = near(topic, topics)
    io.stderr:write(("moonpool help: nothing is called '%s'%s\n"):format(topic, meant and hint or "; `moonpool help` lists what there is"))
    return 1
  end
  while lines[#lines] == "" do lines[#lines] = nil end
  print(table.concat(lines, "\n"))
  return 0
end
