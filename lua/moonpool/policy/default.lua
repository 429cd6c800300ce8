-- moonpool/policy/default.lua: prefer the client that is warm for the job (2: it ran this very workflow last; 1: it holds
-- its models), then priority, then the earliest expected finish. Built-in order decides between equals.
local M = {}

function M.route(_, clients)
  local best = clients[1]
  if #clients == 1 then return best end
  local best_warmth, best_priority, best_finish = best.warm, best.priority, best.finish_ms
  for i = 2, #clients do
    local c = clients[i]
    local w, p = c.warm, c.priority
    local ahead = w > best_warmth or (w == best_warmth and p > best_priority)
    if ahead or (w == best_warmth and p == best_priority and c.finish_ms < best_finish) then
      best, best_warmth, best_priority, best_finish = c, w, p, c.finish_ms
    end
  end
  return best
end

return M
