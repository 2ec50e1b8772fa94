-- Health of McpServer, McpPolicy, McpAuthorizationServer and McpClient for Argo CD, by their
-- condition Ready, which sums up the others.
local health = { status = "Progressing", message = "The controller has not looked at it yet." }
if obj.status == nil or obj.status.conditions == nil then
  return health
end
local ready = nil
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    ready = condition
  end
end
-- What is said about an earlier version says nothing about this one.
if ready == nil or (ready.observedGeneration or obj.status.observedGeneration) ~= obj.metadata.generation then
  return health
end
local message = ready.reason or ""
if ready.message ~= nil and ready.message ~= "" then
  message = message .. ": " .. ready.message
end
local function say(status)
  return { status = status, message = message }
end
if ready.status == "True" then
  return say("Healthy")
end
-- What comes by itself, if all is well; everything else is somebody's to mend.
local underWay = { Pending = true, Fetching = true, NoProxies = true }
if ready.status == "False" and not underWay[ready.reason or ""] then
  return say("Degraded")
end
return say("Progressing")
