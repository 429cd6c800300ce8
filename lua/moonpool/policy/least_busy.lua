-- moonpool/policy/least_busy.lua: the client that will be done first.
local M = {}
function M.route(_, clients)
  local best = clients[1]
  for _, c in ipairs(clients) do
    if c.expected_ms < best.expected_ms then best = c end
  end
  return best
end
return M
