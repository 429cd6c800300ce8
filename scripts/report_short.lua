-- scripts/report_short.lua: a report of one's own for one job: a line. It runs in a state of its own, as policies do.
--   moonpool submit workflow.json --report scripts/report_short.lua
--   moonpool.report.load "scripts/report_short.lua" (result.profile)
return function(profile)
  local slowest = profile.summary.slowestNodes[1]
  return ("%.1f s on %s, of it %.1f s waiting; slowest: %s\n"):format(profile.totalDuration / 1000, profile.client or "no client", profile.queueTime / 1000,
    slowest and ("%s %.1f s"):format(slowest.type, slowest.duration / 1000) or "nothing ran")
end
