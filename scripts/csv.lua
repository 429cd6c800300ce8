-- scripts/csv.lua: a picture for each row of a CSV file whose columns are named like inputs: Positive.text, Sampler.seed, ...
--   moonpool scripts/csv.lua prompts.csv [OUT]
-- A column called `name` names the files. Run again after a break, it does only what is missing.
local moonpool = require "moonpool"
local batch, edit = moonpool.batch, moonpool.edit

local rows = assert(batch.csv(arg[1] or error("usage: csv.lua prompts.csv [OUT]", 0)))
local out = arg[2] or "build/csv"
local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
local manifest <close> = assert(batch.manifest(out .. "/done.jsonl"))

local pool <close> = moonpool.pool {}
local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = 20 } or nil
if sim then pool:add_client(sim.url) end

local skipped = 0
for i, row in ipairs(rows) do
  local name = row.name or ("row-%04d"):format(i)
  if manifest:done(name) then skipped = skipped + 1
  else
    local wf = base:clone()
    for column, text in pairs(row) do
      if column ~= "name" then
        local change, words = edit.parse(wf, column .. "=" .. text)
        if not change then error(("row %d: %s"):format(i, words), 0) end
        wf:input(change.id, change.input, change.value)
      end
    end
    assert(pool:submit(wf, { metadata = { name = name } }))
  end
end
local failed = 0
for result in pool:results() do
  local name = result.metadata.name
  if result.status == "completed" then
    local files = assert(result:save(out, { pattern = batch.name(name) .. ".{ext}" }))
    assert(manifest:add(name, files))
    print(files[1])
  else
    failed = failed + 1
    print(name .. ": " .. result.error.message)
  end
end
print(("%d rows, %d done before, %d failed"):format(#rows, skipped, failed))
os.exit(failed == 0 and 0 or 1, true)
