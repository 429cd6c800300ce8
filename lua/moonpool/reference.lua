-- moonpool/reference.lua: the API reference, read from the editor types (lua/moonpool/meta): for `moonpool help`, for the
-- README's reference, and for the spec that holds both against the code.
local core = require "moonpool.core"

local M = {}

-- {classes = {{name =, text =, fields = {{name =, optional =, type =, text =}}}}, functions = {{name =, class =, method =, args
-- =, text =, params = {{name =, optional =, type =, text =}}, returns = {{type =, text =}}}}}, in the order of the file.
function M.parse(text)
  local api = { classes = {}, functions = {}, aliases = {} }
  local words, params, returns, class = {}, {}, {}, nil
  local function type_and_text(s)                          -- a type has no blank outside of brackets
    local depth, i = 0, 1
    while i <= #s do
      local c = s:sub(i, i)
      if c:find "[%(<{%[]" then depth = depth + 1
      elseif c:find "[%)>}%]]" then depth = depth - 1
      elseif c == " " and depth == 0 then
        local before, after = s:sub(1, i - 1), s:sub(i + 1)
        if not before:find "[|:,]$" and not after:find "^[|:]" then return before, after end
      end
      i = i + 1
    end
    return s, ""
  end
  local function clear() words, params, returns = {}, {}, {} end
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do
    local tag, rest = line:match "^%-%-%-@(%w+)%s*(.*)$"
    local plain = not tag and not line:find "^%-%-%-|" and line:match "^%-%-%-%s?(.*)$"
    local func, args = line:match "^function%s+([%w_.:]+)%s*%((.-)%)"
    if tag == "class" then
      class = { name = rest:match "^[%w_.]+", parent = rest:match ":%s*([%w_.]+)", text = table.concat(words, " "), fields = {} }
      api.classes[#api.classes + 1] = class
      clear()
    elseif tag == "field" then
      local name, more = rest:match "^(%S+)%s+(.*)$"
      if name and class then
        local kind, about = type_and_text(more)
        class.fields[#class.fields + 1] = { name = name:gsub("%?$", ""), optional = name:find "%?$" ~= nil, type = kind, text = about:gsub("^#%s*", "") }
      end
    elseif tag == "param" then
      local name, more = rest:match "^(%S+)%s+(.*)$"
      if name then
        local kind, about = type_and_text(more)
        params[#params + 1] = { name = name:gsub("%?$", ""), optional = name:find "%?$" ~= nil, type = kind, text = about }
      end
    elseif tag == "return" then
      local kind, about = type_and_text(rest)
      returns[#returns + 1] = { type = kind, text = about }
    elseif tag == "alias" then
      local name, more = rest:match "^(%S+)%s*(.*)$"
      api.aliases[#api.aliases + 1] = { name = name, type = more, text = table.concat(words, " ") }
      clear()
    elseif plain then words[#words + 1] = plain
    elseif func then
      local owner, sep, name = func:match "^(.-)([.:])([%w_]+)$"
      api.functions[#api.functions + 1] = { name = name or func, owner = owner or "", method = sep == ":", args = args, text = table.concat(words, " "), params = params, returns = returns }
      clear()
    elseif not tag then clear() end
  end
  return api
end

function M.load() return M.parse(core.source "moonpool.meta.moonpool") end

-- "pool:submit(workflow, options) -> Job|nil, Error?"
function M.signature(f)
  local kinds = {}
  for i, r in ipairs(f.returns) do kinds[i] = r.type:gsub("moonpool%.", "") end
  local lib = f.owner:match "^(.*)Lib$" or f.owner == "Json" and "json"
  local owner = f.owner == "moonpool" and "moonpool" or lib and "moonpool." .. lib:lower() or f.owner:gsub("^%u", string.lower)
  local head = owner .. (f.method and ":" or ".") .. f.name
  return ("%s(%s)%s"):format(head, f.args, #kinds > 0 and " -> " .. table.concat(kinds, ", ") or "")
end

return M
