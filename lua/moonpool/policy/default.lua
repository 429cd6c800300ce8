-- moonpool/policy/default.lua: prefer the client that is warm for the job (2: it ran this very workflow last; 1: it holds
-- its models), then priority, then the earliest expected finish. Built-in order decides between equals.
local M = {}

function M.route(_, clients)
  local best = clients[1]
  if #clients == 1 then return best end
  local standing = best.standing
  local best_warmth, best_priority, best_finish = standing(best)
  for i = 2, #clients do
    local c = clients[i]
    local warmth, priority, finish = standing(c)
    if warmth > best_warmth or (warmth == best_warmth and (priority > best_priority or (priority == best_priority and finish < best_finish))) then
      best, best_warmth, best_priority, best_finish = c, warmth, priority, finish
    end
  end
  return best
end

return M
