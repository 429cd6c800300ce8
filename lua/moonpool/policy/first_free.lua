-- moonpool/policy/first_free.lua: the first client in built-in order (priority, then order of adding).
local M = {}
function M.route(_, clients) return clients[1] end
return M
