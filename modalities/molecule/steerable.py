"""Steerable messages on e3nn (Geiger and Smidt 2022), as in NequIP (Batzner et al. 2022), as a denoiser of molecules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalities.molecule.denoiser import Given, Hidden, MoleculeDenoiser
from modalities.molecule.irreps import EquivariantNorm, e3nn, gate_of, paths_of, read_irreps
from modalities.molecule.vectors import exact, exactly
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen.nn import Companions
from multigen.state import MultigenError, at_least

PART = 2048


class Graph(NamedTuple):
    """Ordered pairs of real atoms within the cutoff, without padding: P of them in the whole batch."""

    target: Tensor
    """Long (P,), the atom that receives, in the flattened batch."""
    source: Tensor
    """Long (P,)."""
    direction: Tensor
    """(P, Y), spherical harmonics of the vector from source to target."""
    radial: Tensor
    """(P, R), what is invariant: distances and the bond."""
    weight: Tensor
    """(P, 1), how much the message counts: the envelope over the root of the number of neighbours."""

    def parts(self) -> Iterator[Graph]:
        """On a CPU, as many pairs at a time as its cache holds the products of."""
        count = PART if self.target.device.type == "cpu" else max(len(self.target), 1)
        return (Graph(*fields) for fields in zip(*(x.split(count) for x in self), strict=True))


class Steerable(MoleculeDenoiser):
    """Features that turn with the molecule: scalars, vectors and tensors of higher degree, with parity.

    Each layer sends messages along all pairs of atoms (within `cutoff`), the tensor product of what the sender holds with the
    spherical harmonics of the direction, each path weighted by a network of the distance, the bond and both atoms' scalars
    (NequIP, eq. 2-5, with the weights of Equiformer). It sees angles that dot products of points show only after more layers,
    at a cost per pair that grows with the width. Tensor products are computed in at least single precision.

    Args:
        width: D of the scalars of a node, which are what taps see.
        higher: irreps of what else a node holds: ``32x1o + 16x2e`` is 32 vectors and 16 symmetric traceless matrices.
        layers: number of layers.
        degree: highest degree of the spherical harmonics; by default that of `higher`.
        radial: width of the networks that weight the paths.
        basis: number of Gaussians that a distance is written in, up to `reach`.
        reach: distance (in units of the coordinates) of the last Gaussian.
        cutoff: pairs further apart exchange no messages; None: all do.
        edges: E of pair features.
        message: width of the MLP that refines the bonds.
        atoms, bonds, charges: number of classes.
        joint: further components (B, N, d) of the atoms that are denoised with the molecule: name -> d.

    Raises:
        MultigenError: e3nn is not installed, or irreps cannot be read or have no vectors.
    """

    def __init__(
        self,
        width: int = 64,
        higher: str = "32x1o + 16x2e",
        layers: int = 4,
        degree: int | None = None,
        radial: int = 32,
        basis: int = 16,
        reach: float = 6.0,
        cutoff: float | None = None,
        edges: int = 32,
        message: int = 64,
        atoms: int = ATOMS,
        bonds: int = len(BONDS),
        charges: int = len(CHARGES),
        joint: Mapping[str, int] | None = None,
    ) -> None:
        at_least(1, width=width, layers=layers, radial=radial, edges=edges, message=message)
        at_least(2, basis=basis)
        at_least(0, degree=degree or 0)
        if cutoff is not None and cutoff <= 0:
            raise MultigenError(f"Steerable: cutoff is a distance above 0, or null; got {cutoff}")
        o3, irreps = e3nn("o3"), read_irreps(width, higher)
        super().__init__(width, edges, message, layers, atoms, bonds, charges)
        self.width, self.basis, self.reach, self.cutoff = width, basis, reach, cutoff
        degrees = list(range((irreps.lmax if degree is None else degree) + 1))
        self.harmonics = o3.SphericalHarmonics(degrees, normalize=True, normalization="component")
        self.embed = nn.Linear(2 * basis + edges, radial)
        self.lift = o3.Linear(f"{self.width}x0e + 2x1o", irreps)
        self.layers = nn.ModuleList(MessageLayer(irreps, self.harmonics.irreps_out, radial) for _ in range(layers))
        self.out_norm, self.coords = EquivariantNorm(irreps), o3.Linear(irreps, "1x1o")
        self.companions = Companions(joint or {}, width)

    def hidden(self, nodes: Tensor, edges: Tensor, given: Given) -> Hidden:
        with exactly(given.coords):
            graph = self.graph(given, exact(edges))
            points = torch.stack([given.coords, given.prev_coords], 2).flatten(0, 1).flatten(1)  # (B N, 6)
            x = self.lift(torch.cat([exact(nodes).flatten(0, 1), points], -1))  # (B N, F)
            seen = []
            for layer in self.layers:
                x = layer(x, graph)  # (B N, F)
                seen.append(x[:, : self.width].view(*nodes.shape[:2], -1))  # (B, N, D)
            x = self.out_norm(x)  # (B N, F)
            change = self.coords(x).view_as(given.coords)  # (B, N, 3)
        return Hidden(x[:, : self.width].view_as(seen[-1]), given.coords + change, edges, seen)

    def graph(self, given: Given, features: Tensor) -> Graph:
        """The pairs that exchange messages, with their features (B, E, N N)."""
        b, n = given.real.shape
        pair = given.pairs.flatten().nonzero()[:, 0]  # (P,), in the flattened (B, N, N)
        vector, distance = between(given.coords, pair)  # (P, 3), (P,)
        if self.cutoff is not None:
            near = distance < self.cutoff  # (P,)
            pair, vector, distance = pair[near], vector[near], distance[near]
        target = pair // n  # (P,)
        known = [self._spread(distance), self._spread(between(given.prev_coords, pair)[1])]  # (P, basis) each
        radial = self.embed(torch.cat([*known, features.mT.flatten(0, 1)[pair]], -1))  # (P, R)
        counts = torch.ones_like(distance) if self.cutoff is None else envelope(distance / self.cutoff)  # (P,)
        total = counts.new_zeros(b * n).index_add(0, target, counts.square())  # (B N,)
        weight = counts / (total[target] + 1e-6).sqrt()  # (P,)
        return Graph(target, source_of(pair, n), self.harmonics(vector), radial, weight[:, None])

    def _spread(self, distance: Tensor) -> Tensor:
        """Gaussians of a distance: (P,) -> (P, basis)."""
        return e3nn("math").soft_one_hot_linspace(distance, 0.0, self.reach, self.basis, basis="gaussian", cutoff=False)


class MessageLayer(nn.Module):
    """x += W Gate(W_m sum_j w_ij (x_j (x) Y(r_ij)) + W_s x), on normed x.

    Args:
        irreps: of x, scalars first.
        harmonics: irreps of the directions.
        radial: R, width of what is invariant of a pair.
    """

    def __init__(self, irreps: Any, harmonics: Any, radial: int) -> None:
        super().__init__()
        o3, nets = e3nn("o3"), e3nn("nn")
        self.width = irreps[0].mul
        self.norm = EquivariantNorm(irreps)
        self.own, self.other = nn.Linear(self.width, radial), nn.Linear(self.width, radial, bias=False)
        between, paths = paths_of(irreps, harmonics)
        self.product = o3.TensorProduct(irreps, harmonics, between, paths, shared_weights=False, internal_weights=False)
        self.weights = nets.FullyConnectedNet([radial, radial, self.product.weight_numel], functional.silu)
        self.gate = gate_of(irreps)
        self.receive, self.keep = o3.Linear(between, self.gate.irreps_in), o3.Linear(irreps, self.gate.irreps_in)
        self.out = o3.Linear(self.gate.irreps_out, irreps)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """(B N, F) -> (B N, F)."""
        normed = self.norm(x)  # (B N, F)
        own, other = (layer(normed[:, : self.width]) for layer in (self.own, self.other))  # (B N, R) each
        total = x.new_zeros(len(x), self.product.irreps_out.dim)  # (B N, F')
        for part in graph.parts():
            pair = part.radial + own[part.target] + other[part.source]  # (P, R)
            weights = self.weights(functional.silu(pair)) * part.weight  # (P, paths)
            messages = self.product(normed[part.source], part.direction, weights)  # (P, F')
            total.index_add_(0, part.target, messages)  # (B N, F')
        return x + self.out(self.gate(self.receive(total) + self.keep(normed)))  # (B N, F)


def between(coords: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Vector from source to target and its length: (B, N, 3), Long (P,) in the flattened (B, N, N) -> (P, 3), (P,)."""
    n = coords.shape[1]
    points = coords.flatten(0, 1)  # (B N, 3)
    vector = points[pair // n] - points[source_of(pair, n)]  # (P, 3)
    return vector, (vector.square().sum(-1) + 1e-12).sqrt()  # (P, 3), (P,)


def source_of(pair: Tensor, n: int) -> Tensor:
    """The second atom of pairs, in the flattened batch: Long (P,) -> Long (P,)."""
    return pair // (n * n) * n + pair % n  # (P,)


def envelope(x: Tensor) -> Tensor:
    """1 at 0, 0 with zero slope from 1 on."""
    return (torch.cos(torch.pi * x.clamp(max=1)) + 1) / 2
