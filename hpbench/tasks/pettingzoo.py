"""provisional"""
from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.pettingzoo_simulator import PettingZooMaker
from hpbench.tasks.simulator import ExternalDynamics
def _task(name, agents, seen, actions, low, high, limit=25):
    return Task(id=f"pettingzoo/{name}", observation_size=seen+agents, discrete=True, action_count=actions, max_episode_steps=limit, anchors=Anchors(low,high,""), success_return=None, budgets={"small": Budget(480000,20)}, dynamics=ExternalDynamics(), physics=ExternalDynamics.physics, simulator=PettingZooMaker(name, agents, seen), agents=agents)
_TASKS=(_task("simple-spread",3,18,5,-100,0),_task("simple-speaker-listener",2,11,5,-100,0),_task("simple-reference",2,21,50,-100,0),_task("simple-line",4,8,5,-100,0),_task("pursuit",8,147,5,-100,0,500))
TASKS = {task.id.partition("/")[2]: task for task in _TASKS}
