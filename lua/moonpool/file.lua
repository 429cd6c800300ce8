-- moonpool/file.lua: a whole file, read at once.
local M = {}

-- Its bytes. nil, words that name the path: it cannot be opened, or is a folder.
function M.read(path)
  local f, words = io.open(path, "rb")
  if not f then return nil, words end
  local text, why = f:read "a"
  f:close()
  if text then return text end
  return nil, path .. ": " .. tostring(why)
end

return M
