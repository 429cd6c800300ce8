-- moonpool/policy/round_robin.lua: each client in turn, by name.
local M, last = {}, ""
function M.route(_, clients)
  local first, after
  for _, c in ipairs(clients) do
    local name = c.name
    if not first or name < first.name then first = c end
    if name > last and (not after or name < after.name) then after = c end
  end
  local pick = after or first
  last = pick.name
  return pick
end
return M
