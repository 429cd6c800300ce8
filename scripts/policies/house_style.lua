-- scripts/policies/house_style.lua: a mutation: every client's own style is added to the positive prompt, and small cards get
-- smaller pictures. The job that was submitted stays as it is.
--   moonpool.pool { policy = { "scripts/policies/house_style.lua", style = { big = "oil painting" }, else_style = "film grain" } }
local options = ...
local M = {}

function M.mutate(_, client, workflow)
  local style = (options.style or {})[client.name] or options.else_style or "film grain"
  for _, id in ipairs(workflow:find { title = "Positive" }) do workflow:input(id, "text", workflow:input(id, "text") .. ", " .. style) end
  local vram = client.devices and client.devices[1] and client.devices[1].vram_total or 0
  if vram > 0 and vram < 10 * 1024 ^ 3 then
    for _, id in ipairs(workflow:find { class = "EmptyLatentImage" }) do workflow:inputs(id, { width = 384, height = 384 }) end
  end
  return workflow
end

return M
