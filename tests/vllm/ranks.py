"""Run by test_vllm_process.py under torchrun: sharded weights, published rank by rank.

The second argument is the tensor parallelism: 1 for an engine on each rank, 2 for one over both.
"""

import sys
from pathlib import Path

import torch
import torch.distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from components.agent.config import VllmConfig
from components.agent.engines.load import load_model
from components.agent.engines.open import open_engine
from components.agent.engines.protocol import TurnRequest
from components.agent.engines.publishing import check_weights, probe_ids
from components.contracts.errors import EngineError
from components.train.sharding import whole_parameters


def main(folder: Path, tensor_parallel: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    model, tokenizer = load_model(folder)
    settings = VllmConfig(tensor_parallel=tensor_parallel)
    limits = {"num_slots": 4, "max_context_tokens": 128}
    engine, _ = open_engine("vllm", folder, vllm=settings, loaded=(model, tokenizer), **limits)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            whole = 0.02 * torch.randn(parameter.shape, generator=generator)
            parameter.add_(torch.distributed.tensor.distribute_tensor(whole, mesh, parameter.placements))

    def trainer_logprobs(ids):
        with torch.no_grad():
            logprobs = model(torch.tensor([list(ids)])).logits[0, :-1].log_softmax(-1)
        return logprobs.gather(-1, torch.tensor(list(ids))[1:, None])[:, 0].tolist()

    ids = probe_ids(tokenizer, 128)
    try:
        check_weights(engine, ids, trainer_logprobs, 1e-4)
        raise AssertionError("the former weights passed for the new ones")
    except EngineError:
        engine.reset_cache()
    engine.publish(whole_parameters(model))
    error_nats = check_weights(engine, ids, trainer_logprobs, 1e-4)
    # With an engine of its own each rank samples something else; a group that shares one has to ask for the same.
    seed = rank if tensor_parallel == 1 else 0
    engine.add_request(TurnRequest(0, ids[:40], 12, 1.0, seed, ()))
    turns = []
    while engine.has_unfinished():
        turns += engine.step()
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, turns[0].token_ids)
    assert (everyone[0] == everyone[1]) == (tensor_parallel == 2), everyone
    assert error_nats < 1e-5, error_nats
    print(f"rank {rank} good", flush=True)
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
