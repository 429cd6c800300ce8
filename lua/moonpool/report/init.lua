-- moonpool/report/init.lua: reports are functions from a profile to text, one file each. The sums are in C; the words
-- are here.
local core = require "moonpool.core"

local M = {}

-- Loads a formatter: the name of a built-in one (text), or the path of a Lua file that returns a function(profile) -> text. The
-- file runs in a state of its own, as policies do: limits = {instructions =, memory_mb =} (20,000,000 and 256). When it fails it
-- is logged, and the built-in text is what the formatter gives; after ten errors it is switched off. nil, words when it does
-- not load.
function M.load(name, limits)
  if type(name) ~= "string" then error("report.load: a name or a path expected, got " .. type(name), 2) end
  if not name:find "[/.]" then
    if name ~= "text" then return nil, ("there is no report called '%s' (text; or a path to a .lua file)"):format(name) end
    return M.text
  end
  local ok, formatter = pcall(core.formatter, name, limits)
  if not ok then return nil, formatter end
  local told = {}
  return function(profile, runs)
    local text, words = formatter(core.json.encode(profile), runs)
    if text then return text end
    local first = words:match "^[^\n]*"
    if not told[first] then core.log("error", "report " .. name .. ": " .. words) end
    told[first] = true
    return M.text(profile), words
  end
end

M.text = require "moonpool.report.text"
-- What `--report` named; else the built-in text.
M.default = M.text

return M
