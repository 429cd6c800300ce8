-- scripts/report_totals.lua: a report of one's own: what each user's jobs took, by the `user` in their metadata.
--   moonpool report slow runs.jsonl --format scripts/report_totals.lua
-- A formatter gets the sheet of the question (title, answer, parts) and the runs, and gives back a text.
return function(sheet, runs)
  local totals, users = {}, {}
  for i = 1, #runs do
    local run = runs[i]
    local user = type(run.metadata) == "table" and tostring(run.metadata.user or "nobody") or "nobody"
    if not totals[user] then
      totals[user] = { jobs = 0, ms = 0 }
      users[#users + 1] = user
    end
    totals[user].jobs = totals[user].jobs + 1
    totals[user].ms = totals[user].ms + run.executionTime
  end
  table.sort(users, function(a, b) return totals[a].ms > totals[b].ms end)
  local lines = { sheet.title .. ", by user" }
  for _, user in ipairs(users) do lines[#lines + 1] = ("  %-20s %5d jobs  %10.1f s"):format((user:gsub("%c", "?")), totals[user].jobs, totals[user].ms / 1000) end
  return table.concat(lines, "\n") .. "\n"
end
