"""Nothing lost and nothing twice, for the plan alone: any order of news, losses, late effects and kills."""

from hypothesis import settings
from tests.property.plan_machine import machine

from pipetrail.delivery import plan

TestATrackerThatCountsRepeats = machine(plan, counts_repeats=True).TestCase
TestATrackerThatKeepsOneOfEqualPoints = machine(plan, counts_repeats=False).TestCase
TestATrackerThatCountsRepeats.settings = TestATrackerThatKeepsOneOfEqualPoints.settings = settings(
    max_examples=200, stateful_step_count=25, deadline=None
)
