-- scripts/policies/night.lua: a routing policy: paid servers (tag "paid") help out only when a job has waited for max_wait_ms.
--   moonpool submit workflow.json --count 100 --policy scripts/policies/night.lua
--   moonpool.pool { policy = { "scripts/policies/night.lua", max_wait_ms = 5000 } }
local options = ...
local max_wait_ms = options.max_wait_ms or 60000
local M = {}

-- Jobs with a deadline in their metadata go first, the earliest of them before the others.
function M.rank(job)
  return job.metadata and job.metadata.deadline and 1e12 - job.metadata.deadline or nil
end

function M.route(job, clients)
  for _, c in ipairs(clients) do
    local paid = false
    for _, tag in ipairs(c.tags or {}) do paid = paid or tag == "paid" end
    if not paid or job.waited_ms >= max_wait_ms then return c end
  end
  return false                                     -- asked again when something changes, or after recheck_ms
end

return M
