-- moonpool/report/init.lua: reports are functions from a profile to text, one file each. The sums are in C; the words
-- are here.
local M = {}

-- Loads a formatter: the name of a built-in one, or the path of a Lua file that returns a function.
function M.load(name)
  if name:find "[/.]" then
    local chunk, words = loadfile(name, "t")
    if not chunk then return nil, words end
    local ok, fn = pcall(chunk)
    if not ok then return nil, fn end
    if type(fn) ~= "function" then return nil, name .. " must return a function" end
    return fn
  end
  local ok, fn = pcall(require, "moonpool.report." .. name)
  if not ok then return nil, "there is no report called '" .. name .. "'" end
  return fn
end

M.text = require "moonpool.report.text"

return M
