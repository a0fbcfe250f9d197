"""repair: find what keeps a folded disk from booting, and heal it; nothing of the appliance is touched."""

from onebay.ops.repair.job import RepairPlan, Wrong
from onebay.ops.repair.plan import plan_repair, repair

__all__ = ["RepairPlan", "Wrong", "plan_repair", "repair"]
