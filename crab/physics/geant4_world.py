"""The Geant4 side: geometry, physics list, primaries and sensitive detectors.

Imported by `crab.physics.geant4_worker` alone, after it has set the environment variables of the
data sets: ``import geant4_pybind`` reads them.
"""

from pathlib import Path

import geant4_pybind as g
import numpy as np

# The only processes of the pruned list that would read data files.
PRUNED_PROCESSES = {
    "e-": ("eBrem",),
    "e+": ("eBrem",),
    "gamma": ("phot", "Rayl"),
    "neutron": ("neutronInelastic", "nCapture", "hadElastic"),
}
VERSION = g.G4Version.split(":")[-1].strip(" $")
LIGHT_PARTICLES = {(1, 1): "proton", (2, 4): "alpha", (-1, 0): "e-", (1, 0): "e+"}


class _Prune(g.G4VPhysicsConstructor):
    """Removes the processes that need data files; registered last."""

    def __init__(self):
        super().__init__("prune")

    def ConstructParticle(self):
        pass

    def ConstructProcess(self):
        table = g.G4ParticleTable.GetParticleTable()
        for particle, names in PRUNED_PROCESSES.items():
            manager = table.FindParticle(particle).GetProcessManager()
            for process in list(manager.GetProcessList()):
                if process.GetProcessName() in names:
                    manager.RemoveProcess(process)


class _PrunedList(g.G4VModularPhysicsList):
    """FTFP_BERT's constructors without data sets: see `geant4_worker.PRUNED_LIST`."""

    def __init__(self):
        super().__init__()
        self.SetVerboseLevel(0)
        for constructor in (
            g.G4EmStandardPhysics,
            g.G4DecayPhysics,
            g.G4HadronElasticPhysics,
            g.G4HadronPhysicsFTFP_BERT,
            g.G4IonPhysics,
            g.G4StoppingPhysics,
        ):
            self.RegisterPhysics(constructor())
        em = g.G4EmParameters.Instance()
        em.SetGeneralProcessActive(False)
        em.SetFluo(False)
        em.SetAuger(False)
        em.SetPixe(False)
        self.RegisterPhysics(_Prune())


def _physics_list(full_data: bool):
    return g.FTFP_BERT(0) if full_data else _PrunedList()


class _Detector(g.G4VUserDetectorConstruction):
    """Shell, the wafer at its centre if there is one, absorbers of detectors and witness films."""

    def __init__(self, setup: dict):
        super().__init__()
        self.setup = setup
        self.keep = []  # Geant4 holds bare pointers: Python must not collect what they point to
        self.regions = {}
        self.scored = {}

    def _logical(self, solid, material: str, region: str | None = None):
        found = g.G4NistManager.Instance().FindOrBuildMaterial(material)
        if found is None:
            raise ValueError(f"material = {material!r}: not in Geant4's NIST table")
        volume = g.G4LogicalVolume(solid, found, solid.GetName())
        self.keep += [solid, volume]
        if region is not None:
            if region not in self.regions:
                self.regions[region] = g.G4Region(region)
            self.regions[region].AddRootLogicalVolume(volume)
        return volume

    def _place(self, volume, mother, x_mm=0.0, y_mm=0.0, z_mm=0.0, copy=0):
        at = g.G4ThreeVector(x_mm * g.mm, y_mm * g.mm, z_mm * g.mm)
        name = volume.GetName()
        self.keep.append(g.G4PVPlacement(None, at, volume, name, mother, False, copy))
        return self.keep[-1]

    def _slice(self, mother, axis, solid, n: int, width_mm: float):
        volume = self._logical(solid, self.setup["wafer_material"])
        name = solid.GetName()
        self.keep.append(g.G4PVReplica(name, volume, mother, axis, n, width_mm * g.mm))
        return volume

    def Construct(self):
        s, mm = self.setup, g.mm
        half = s["world_half_mm"] * mm
        world = self._logical(g.G4Box("world", half, half, half), "G4_Galactic")
        for region, inner_mm, outer_mm in s["shells_mm"]:
            radii = inner_mm * mm, outer_mm * mm
            shell = g.G4Sphere(region, *radii, 0, 360 * g.deg, 0, 180 * g.deg)
            self._place(self._logical(shell, s["shield_material"], region), world)
        if s["wafer_side_mm"] is not None:
            self._wafer(world)
        for name, part in s["absorbers"].items():
            self._absorber(world, name, part)
        return self._place(world, None)

    def _wafer(self, world):
        s, mm = self.setup, g.mm
        half, half_z = s["wafer_side_mm"] / 2 * mm, s["wafer_thickness_mm"] / 2 * mm
        n, width_mm = s["n_cells"], s["wafer_side_mm"] / s["n_cells"]
        half_cell = width_mm / 2 * mm
        wafer = self._logical(g.G4Box("wafer", half, half, half_z), s["wafer_material"], "wafer")
        self._place(wafer, world)
        row = g.G4Box("row", half_cell, half, half_z)
        row = self._slice(wafer, g.EAxis.kXAxis, row, n, width_mm)
        cell = g.G4Box("cell", half_cell, half_cell, half_z)
        cell = self._slice(row, g.EAxis.kYAxis, cell, n, width_mm)
        self.scored["wafer"] = ([cell], g.G4PSEnergyDeposit3D("energy", n, n, 1, 1, 0, 2))

    def _absorber(self, world, name: str, part: dict):
        """All boxes of one detector have its number, so they score as one."""
        s, volumes, logical = self.setup, [], {}
        for centre_mm, size_mm in zip(part["centre_mm"], part["size_mm"], strict=True):
            size_mm = tuple(size_mm)
            if size_mm not in logical:
                box = g.G4Box(name, *(side / 2 * g.mm for side in size_mm))
                logical[size_mm] = self._logical(box, part["material"], name)
                volumes.append(logical[size_mm])
            for k, point_mm in enumerate(s["detector_mm"] + s["witness_mm"]):
                at_mm = [p + c for p, c in zip(point_mm, centre_mm, strict=True)]
                self._place(logical[size_mm], world, *at_mm, k)
        self.scored[name] = (volumes, g.G4PSEnergyDeposit("energy"))

    def ConstructSDandField(self):
        # Geant4's own scorers, because a Python call for each step costs more than the step.
        for name, (volumes, scorer) in self.scored.items():
            sensitive = g.G4MultiFunctionalDetector(name)
            g.G4SDManager.GetSDMpointer().AddNewDetector(sensitive)
            sensitive.RegisterPrimitive(scorer)
            for volume in volumes:
                self.SetSensitiveDetector(volume, sensitive)
            self.keep.append(sensitive)


class _Gun(g.G4VUserPrimaryGeneratorAction):
    """Shoots row ``event ID`` of a list of (z, a, energy_mev, x, y, z in mm, direction)."""

    def __init__(self):
        super().__init__()
        self.gun = g.G4ParticleGun(1)
        self.rows = []
        self.current = None

    @staticmethod
    def _particle(z: int, a: int):
        if (z, a) in LIGHT_PARTICLES:
            table = g.G4ParticleTable.GetParticleTable()
            return table.FindParticle(LIGHT_PARTICLES[z, a])
        return g.G4IonTable.GetIonTable().GetIon(z, a, 0.0)

    def GeneratePrimaries(self, event):
        z, a, energy_mev, *place = self.rows[event.GetEventID()]
        if (z, a) != self.current:
            self.gun.SetParticleDefinition(self._particle(int(z), int(a)))
            self.gun.SetParticleCharge(z * g.eplus)
            self.current = (z, a)
        self.gun.SetParticleEnergy(energy_mev * g.MeV)
        self.gun.SetParticlePosition(g.G4ThreeVector(*place[:3]))
        self.gun.SetParticleMomentumDirection(g.G4ThreeVector(*place[3:]))
        self.gun.GeneratePrimaryVertex(event)


class _Actions(g.G4VUserActionInitialization):
    def __init__(self, *actions):
        super().__init__()
        self.actions = actions

    def Build(self):
        for action in self.actions:
            self.SetUserAction(action)


class World:
    """One initialised `G4RunManager`: a process can have only one.

    Parameters
    ----------
    setup : dict
        Geometry and cuts, from `crab.physics.transport.world_setup`.
    full_data : bool
        Run the full FTFP_BERT list, not the pruned one.
    """

    def __init__(self, setup: dict, full_data: bool):
        g.G4Random.setTheSeed(1)
        self.manager = g.G4RunManager()
        self.detector = _Detector(setup)
        self.physics = _physics_list(full_data)
        self.manager.SetUserInitialization(self.detector)
        self.manager.SetUserInitialization(self.physics)
        # Geant4 allows user actions only after the physics list is set.
        self.volumes = {} if setup["wafer_side_mm"] is None else {"wafer": 0}
        self.volumes |= {name: k for k, name in enumerate(setup["absorbers"], start=1)}
        self.gun = _Gun()
        self.actions = _Actions(self.gun)
        self.manager.SetUserInitialization(self.actions)
        ui = g.G4UImanager.GetUIpointer()
        for command in ("/process/em/verbose 0", "/process/had/verbose 0", "/run/verbose 0"):
            ui.ApplyCommand(command)
        if "shield_outer" in setup["cuts_um"]:
            # Coarser scattering where electrons still have a skin to cross.
            g.G4EmParameters.Instance().AddPhysics("shield_outer", "G4EmStandard_opt1")
        self.manager.Initialize()
        ui.ApplyCommand("/cuts/setLowEdge 100 eV")
        for region, cut_um in setup["cuts_um"].items():
            ui.ApplyCommand(f"/run/setCutForRegion {region} {cut_um} um")
        # Geant4's own writer of scores, because a Python call for each event costs 10 us.
        self.writer = g.G4GenericScoreNtupleWriter()
        self.writer.SetVerboseLevel(0)
        self.manager.BeamOn(0)

    def run(self, primaries: np.ndarray, seed: int, scratch: Path) -> np.ndarray:
        """Track primaries.

        Parameters
        ----------
        primaries : ndarray, shape (n, 9)
            Charge number (−1: electron), mass number (0: electron), kinetic energy in MeV,
            position in mm, unit direction.
        seed : int
            Geant4's seed, in [1, 2**31).
        scratch : pathlib.Path
            Folder for Geant4's files.

        Returns
        -------
        ndarray, shape (n, 4)
            Primary, volume, cell or detector, deposit in MeV. Volume: 0 wafer, then the
            absorbers. Cell: ``ix * n_cells + iy``.
        """
        self.gun.rows = primaries.tolist()
        self.writer.SetFileName(str(scratch / "scores.csv"))
        g.G4Random.setTheSeed(seed)
        self.manager.BeamOn(len(primaries))
        tables = [np.empty((0, 4))]
        for name, volume in self.volumes.items():
            path = scratch / f"scores_nt_{name}_energy.csv"
            if path.exists():  # Geant4 removes an empty one
                event, index, energy = _read_scores(path)
                tables.append(np.column_stack([event, np.full(len(event), volume), index, energy]))
                path.unlink()
        return np.concatenate(tables)


def _read_scores(path: Path) -> np.ndarray:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return np.array(",".join(lines).split(","), dtype=float).reshape(-1, 3).T
