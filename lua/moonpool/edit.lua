-- moonpool/edit.lua: changes of a workflow given as words ("Positive.text=a lighthouse"), for the command line and for
-- scripts that take such words. A node is named by its id, its title or its class.
local core = require "moonpool.core"
local near = require "moonpool.near"

local M = {}

-- The id of the node that `name` means: an id, else the only node of that title, else the only one of that class.
-- nil, words that name the candidates or the nearest name.
function M.node(wf, name)
  local nodes, all = wf:nodes(), {}
  for _, n in ipairs(nodes) do
    if n.id == name then return n.id end
  end
  for _, field in ipairs { "title", "class" } do
    local found = {}
    for _, n in ipairs(nodes) do
      if n[field] == name then found[#found + 1] = n.id end
    end
    if #found == 1 then return found[1] end
    if #found > 1 then return nil, ("%d nodes have the %s '%s': say which by id (%s)"):format(#found, field, name, table.concat(found, ", ")) end
  end
  for _, n in ipairs(nodes) do
    all[#all + 1] = n.id
    all[#all + 1] = n.class
    all[#all + 1] = n.title
  end
  local _, hint = near(name, all)
  return nil, ("there is no node '%s'%s"):format(name, hint)
end

local function document(wf) return core.json.decode(wf:to_json()) end

-- The node and input that "NODE.input" means, where titles and inputs may contain dots. nil, words.
function M.target(wf, path)
  local words
  for at = #path - 1, 2, -1 do
    if path:sub(at, at) == "." then
      local id, why = M.node(wf, path:sub(1, at - 1))
      if id then
        local input, inputs = path:sub(at + 1), document(wf)[id].inputs or {}
        if inputs[input] ~= nil then return id, input end
        local names = {}
        for k in pairs(inputs) do names[#names + 1] = k end
        table.sort(names)
        local meant, hint = near(input, names)
        return nil, ("node %s (%s) has no input '%s'%s"):format(id, document(wf)[id].class_type, input,
          meant and hint or #names > 0 and ": it has " .. table.concat(names, ", ") or "")
      end
      words = words or why
    end
  end
  return nil, words or ("'%s': NODE.input expected, where NODE is an id, a title or a class"):format(path)
end

-- Text as a value of the kind that the input has now: numbers stay numbers, words words. A link is replaced by what the
-- text looks like. nil, words.
function M.value(wf, id, input, text)
  local now = document(wf)[id].inputs[input]
  local parsed = core.json.decode(text)
  if type(now) == "string" then return text end
  if type(now) == "boolean" then
    if type(parsed) ~= "boolean" then return nil, ("%s.%s: true or false expected, got '%s'"):format(id, input, text) end
    return parsed
  end
  local numeric = type(parsed) == "number" or (type(parsed) == "userdata" and parsed ~= core.json.null)
  if type(now) == "number" or (type(now) == "userdata" and now ~= core.json.null) then
    if not numeric then return nil, ("%s.%s: a number expected, got '%s'"):format(id, input, text) end
    return parsed
  end
  if numeric or type(parsed) == "boolean" or type(parsed) == "table" then return parsed end
  return text
end

-- "NODE.input=text" -> {id =, input =, value =}; nil, words.
function M.parse(wf, words)
  local path, text = words:match "^(.-)=(.*)$"
  if not path then return nil, ("'%s': NODE.input=value expected"):format(words) end
  local id, input = M.target(wf, path)
  if not id then return nil, input end
  local value, why = M.value(wf, id, input, text)
  if value == nil then return nil, why end
  return { id = id, input = input, value = value }
end

-- "NODE.input=a,b,c" -> {id =, input =, values = {...}}; whole ranges as 1..5 or 1..9:2; a comma inside of a value is written
-- \, (backslash, comma). nil, words.
function M.sweep(wf, words)
  local path, text = words:match "^(.-)=(.*)$"
  if not path then return nil, ("'%s': NODE.input=a,b,c expected"):format(words) end
  local id, input = M.target(wf, path)
  if not id then return nil, input end
  local values = {}
  for item in (text:gsub("\\,", "\0") .. ","):gmatch "([^,]*)," do
    item = item:gsub("%z", ",")
    local from, to, by = item:match "^(%-?%d+)%.%.(%-?%d+):?(%-?%d*)$"
    if from then
      local step = by == "" and 1 or math.tointeger(tonumber(by))
      if not math.tointeger(from) or not math.tointeger(to) or not step then return nil, ("'%s': the numbers of a range lie between -2^63 and 2^63-1"):format(item) end
      if step == 0 then return nil, ("'%s': a step of 0 never ends"):format(item) end
      if ((to + 0.0) - (from + 0.0)) / step > 100000 then return nil, ("'%s': more than 100,000 values"):format(item) end
      for v = math.tointeger(from), math.tointeger(to), step do values[#values + 1] = v end
    else
      local value, why = M.value(wf, id, input, item)
      if value == nil then return nil, why end
      values[#values + 1] = value
    end
  end
  if #values == 0 then return nil, ("'%s': there are no values"):format(words) end
  return { id = id, input = input, values = values }
end

-- The inputs that hold a seed: {{id, input}, ...}.
function M.seeds(wf)
  local list = {}
  for _, n in ipairs(wf:nodes()) do
    for _, input in ipairs { "seed", "noise_seed" } do
      local v = wf:input(n.id, input)
      if type(v) == "number" or (type(v) == "userdata" and v ~= core.json.null) then list[#list + 1] = { n.id, input } end
    end
  end
  return list
end

return M
