-- moonpool/policy/default.lua: prefer the client that is warm for the job (it ran this very workflow last, or holds its
-- models), then priority, then the earliest expected finish. Built-in order decides between equals.
local M = {}

local function holds(models, wanted)
  if #wanted == 0 then return false end
  local have = {}
  for _, m in ipairs(models) do have[m] = true end
  for _, m in ipairs(wanted) do
    if not have[m] then return false end
  end
  return true
end

local function warmth(job, client, models)
  if client.last_hash == job.structure_hash then return 2 end
  return holds(client.models, models) and 1 or 0
end

function M.route(job, clients)
  if #clients == 1 then return clients[1] end
  local models = job.models
  local best, best_warmth, best_priority, best_finish
  for _, c in ipairs(clients) do
    local w, p = warmth(job, c, models), c.priority
    local f = c.expected_ms + (c:typical_ms(job.structure_hash) or 0)
    if not best or w > best_warmth or (w == best_warmth and (p > best_priority or (p == best_priority and f < best_finish))) then
      best, best_warmth, best_priority, best_finish = c, w, p, f
    end
  end
  return best
end

return M
