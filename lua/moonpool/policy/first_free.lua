-- moonpool/policy/first_free.lua: the free client with the highest priority; between equals the one that was added first.
local M = {}
function M.route(_, clients)
  local best = clients[1]
  for _, c in ipairs(clients) do
    if c.priority > best.priority or (c.priority == best.priority and c.index < best.index) then best = c end
  end
  return best
end
return M
