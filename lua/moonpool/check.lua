-- moonpool/check.lua: everything that is wrong with a workflow, for a person: in itself, and against what a server has
-- (GET /object_info, protocol section 6).
local core = require "moonpool.core"
local near = require "moonpool.near"

local function keys(t)
  local list = {}
  for k in pairs(t) do list[#list + 1] = tostring(k) end
  table.sort(list, function(a, b)
    local x, y = tonumber(a), tonumber(b)
    if x and y then return x < y end
    return a < b
  end)
  return list
end

local function hint(wrong, names)
  return type(wrong) == "string" and select(2, near(wrong, names)) or ""
end

local function is_link(v) return type(v) == "table" and #v == 2 and type(v[1]) == "string" and math.tointeger(v[2]) ~= nil end
local function is_number(v) return type(v) == "number" or type(v) == "userdata" end

-- The definition of an input: its type ("INT", or a list of words), and its options.
local function definition(info, name)
  local groups = type(info.input) == "table" and info.input or {}
  for _, group in ipairs { "required", "optional", "hidden" } do
    local d = type(groups[group]) == "table" and groups[group][name]
    if type(d) == "table" then
      local kind, options = d[1], type(d[2]) == "table" and d[2] or {}
      if kind == "COMBO" and type(options.options) == "table" then kind = options.options end
      return kind, options, group
    elseif d then return "*", {}, group end
  end
end

local plain = { INT = true, FLOAT = true, STRING = true, BOOLEAN = true, COMBO = true }   -- what is written down; the rest comes by links

local function value_problem(kind, options, v)
  if type(kind) == "table" then
    local words = {}
    for _, w in ipairs(kind) do
      if w == v then return nil end
      words[#words + 1] = tostring(w)
    end
    local shown = table.concat(words, ", ", 1, math.min(#words, 8)) .. (#words > 8 and ", ..." or "")
    local meant = hint(v, words)
    return ("'%s' is none of the values that this server has%s"):format(tostring(v), meant ~= "" and meant or #words > 0 and ": " .. shown or ": it has none")
  end
  if kind == "INT" or kind == "FLOAT" then
    if not is_number(v) and not (type(v) == "string" and tonumber(v)) then return ("a number expected, got %s"):format(type(v) == "string" and "'" .. v .. "'" or type(v)) end
    local n = tonumber(tostring(v))
    if kind == "INT" and n and n ~= math.floor(n) then return ("a whole number expected, got %s"):format(tostring(v)) end
    if n and type(options.min) == "number" and n < options.min then return ("%s is less than the least value, %s"):format(tostring(v), tostring(options.min)) end
    if n and type(options.max) == "number" and n > options.max then return ("%s is more than the greatest value, %s"):format(tostring(v), tostring(options.max)) end
  elseif type(kind) == "string" and kind:find "^[A-Z0-9_]+$" and not plain[kind] and type(v) ~= "table" then return ("a link to a node that gives %s expected, got %s"):format(kind, tostring(v))
  elseif kind == "STRING" and type(v) == "table" then return "a text expected, got a list or an object"
  elseif kind == "BOOLEAN" and type(v) == "table" then return "true or false expected, got a list or an object" end
end

-- Types as servers compare them: "*" fits all, and a list of names separated by commas fits each of them.
local function fits(given, wanted)
  if type(wanted) == "table" then wanted = "COMBO" end
  if type(given) == "table" then given = "COMBO" end
  if given == wanted or given == "*" or wanted == "*" then return true end
  for a in tostring(given):gmatch "[^,]+" do
    for b in tostring(wanted):gmatch "[^,]+" do
      if a == b then return true end
    end
  end
  return false
end

-- doc: the decoded document. info: what a server has, or nil. Returns a list of {node =, class =, input =, words =}, in the
-- order of the nodes; `node` is nil for what concerns the whole.
return function(doc, info)
  local list = {}
  local function add(node, class, input, words, ...) list[#list + 1] = { node = node, class = class, input = input, words = select("#", ...) > 0 and words:format(...) or words } end
  if type(doc) ~= "table" then add(nil, nil, nil, "a workflow is a JSON object of nodes, this is something else") return list end
  if type(doc.nodes) == "table" and doc.nodes.class_type == nil then
    add(nil, nil, nil, 'this is a workflow in the UI format; export it with "Export (API)" in ComfyUI')
    return list
  end
  if type(doc.prompt) == "table" and doc.prompt.class_type == nil then
    add(nil, nil, nil, 'this is a wrapper around a workflow; the workflow itself is its member "prompt"')
    return list
  end
  local ids, classes, outputs, state = keys(doc), info and keys(info) or {}, 0, {}
  if #ids == 0 then add(nil, nil, nil, "it is empty: it has no nodes") end
  for _, id in ipairs(ids) do
    local n = doc[id]
    local class = type(n) == "table" and n.class_type
    local inputs = type(n) == "table" and n.inputs or {}
    local known = info and type(class) == "string" and info[class] or nil
    if type(n) ~= "table" then add(id, nil, nil, "it is no object")
    elseif type(class) ~= "string" or class == "" then add(id, nil, nil, "it has no class_type")
    elseif info and type(known) ~= "table" then add(id, class, nil, "the server has no such class%s", hint(class, classes)) end
    if type(inputs) ~= "table" then add(id, class, nil, "its inputs are no object"); inputs = {} end
    if known and known.output_node then outputs = outputs + 1 end
    local names = {}
    if known then
      for _, group in ipairs { "required", "optional", "hidden" } do
        for _, k in ipairs(keys(type(known.input) == "table" and type(known.input[group]) == "table" and known.input[group] or {})) do
          names[#names + 1] = k
          if group == "required" and inputs[k] == nil then add(id, class, k, "it is required, and not there") end
        end
      end
    end
    for _, k in ipairs(keys(inputs)) do
      local v = inputs[k]
      local kind, options = nil, nil
      if known then kind, options = definition(known, k) end
      if is_link(v) then
        local from = doc[v[1]]
        local given = type(from) == "table" and info and type(info[from.class_type]) == "table" and info[from.class_type].output
        if v[1] == id then add(id, class, k, "it is linked to its own node")
        elseif from ~= nil and type(from) ~= "table" then add(id, class, k, "it is linked to node %s, which is no object", v[1])
        elseif from == nil then add(id, class, k, "it is linked to node %s, which does not exist%s", v[1], hint(v[1], ids))
        elseif type(given) == "table" and given[v[2] + 1] == nil then add(id, class, k, "node %s (%s) has no output %d, it has %d", v[1], from.class_type, v[2], #given)
        elseif type(given) == "table" and kind and not fits(given[v[2] + 1], kind) then
          add(id, class, k, "%s expected, and node %s (%s) gives %s there", type(kind) == "table" and "a choice" or kind, v[1], from.class_type, tostring(given[v[2] + 1]))
        end
      elseif known and kind then
        local wrong = value_problem(kind, options, v)
        if wrong then add(id, class, k, wrong) end
      end
      if known and not kind and #names > 0 then
        local meant = hint(k, names)
        if meant ~= "" then add(id, class, k, "the class has no such input%s", meant) end
      end
    end
  end
  if info and outputs == 0 and #ids > 0 then add(nil, nil, nil, "no node is an output (SaveImage or PreviewImage, for instance): a server refuses it") end
  local function walk(id, path)
    if state[id] == 2 or type(doc[id]) ~= "table" then return end
    if state[id] == 1 then
      add(id, doc[id].class_type, nil, "it depends on itself: %s", table.concat(path, " <- ") .. " <- " .. id)
      return
    end
    state[id] = 1
    for _, k in ipairs(keys(type(doc[id].inputs) == "table" and doc[id].inputs or {})) do
      local v = doc[id].inputs[k]
      if is_link(v) and v[1] ~= id and #path < 10000 then
        path[#path + 1] = id
        walk(v[1], path)
        path[#path] = nil
      end
    end
    state[id] = 2
  end
  for _, id in ipairs(ids) do walk(id, {}) end
  if #list == 0 then                                       -- what the pool itself would say, if anything
    local w, err = core.workflow.from(core.json.encode(doc))
    if not w then add(nil, nil, nil, err.message) end
  end
  return list
end
