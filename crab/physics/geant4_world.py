"""The Geant4 side: geometry, physics list, primaries and sensitive detectors.

Imported by `crab.physics.geant4_worker` alone, after it has set the environment variables of the
data sets: ``import geant4_pybind`` reads them.
"""

import geant4_pybind as g
import numpy as np

# The only processes of the pruned list that would read data files.
PRUNED_PROCESSES = {
    "e-": ("eBrem",),
    "e+": ("eBrem",),
    "gamma": ("phot", "Rayl"),
    "neutron": ("neutronInelastic", "nCapture", "hadElastic"),
}
VOLUMES = ("wafer", "tes")
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
    """Shell, the wafer at its centre, TES and witness films on the wafer's upper face."""

    def __init__(self, setup: dict):
        super().__init__()
        self.setup = setup
        self.keep = []  # Geant4 holds bare pointers: Python must not collect what they point to
        self.scored = {}

    def _logical(self, solid, material: str, region: bool = False):
        found = g.G4NistManager.Instance().FindOrBuildMaterial(material)
        if found is None:
            raise ValueError(f"material = {material!r}: not in Geant4's NIST table")
        volume = g.G4LogicalVolume(solid, found, solid.GetName())
        self.keep += [solid, volume]
        if region:
            self.keep.append(g.G4Region(solid.GetName()))
            self.keep[-1].AddRootLogicalVolume(volume)
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
        if s["shield_thickness_mm"] > 0:
            inner = s["shield_radius_mm"] * mm
            outer = inner + s["shield_thickness_mm"] * mm
            shell = g.G4Sphere("shield", inner, outer, 0, 360 * g.deg, 0, 180 * g.deg)
            self._place(self._logical(shell, s["shield_material"], region=True), world)

        half, half_z_mm = s["wafer_side_mm"] / 2 * mm, s["wafer_thickness_mm"] / 2
        half_z, n, width_mm = half_z_mm * mm, s["n_cells"], s["wafer_side_mm"] / s["n_cells"]
        half_cell = width_mm / 2 * mm
        wafer = self._logical(
            g.G4Box("wafer", half, half, half_z), s["wafer_material"], region=True
        )
        self._place(wafer, world)
        row = g.G4Box("row", half_cell, half, half_z)
        row = self._slice(wafer, g.EAxis.kXAxis, row, n, width_mm)
        cell = g.G4Box("cell", half_cell, half_cell, half_z)
        cell = self._slice(row, g.EAxis.kYAxis, cell, n, width_mm)
        self.scored["wafer"] = (cell, g.G4PSEnergyDeposit3D("energy", n, n, 1, 1, 0, 2))

        if s["tes_mm"]:
            half, half_film_mm = s["tes_side_mm"] / 2 * mm, s["tes_thickness_mm"] / 2
            film = g.G4Box("tes", half, half, half_film_mm * mm)
            tes = self._logical(film, s["tes_material"], region=True)
            for k, (x_mm, y_mm) in enumerate(s["tes_mm"] + s["witness_mm"]):
                self._place(tes, world, x_mm, y_mm, half_z_mm + half_film_mm, k)
            self.scored["tes"] = (tes, g.G4PSEnergyDeposit("energy"))
        return self._place(world, None)

    def ConstructSDandField(self):
        # Geant4's own scorers, because a Python call for each step costs more than the step.
        for name, (volume, scorer) in self.scored.items():
            sensitive = g.G4MultiFunctionalDetector(name)
            g.G4SDManager.GetSDMpointer().AddNewDetector(sensitive)
            sensitive.RegisterPrimitive(scorer)
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


class _EventAction(g.G4UserEventAction):
    """Moves the sums of an event to a list of (primary, volume, cell or TES, energy in MeV)."""

    def __init__(self, volumes: list[str]):
        super().__init__()
        self.volumes = [(VOLUMES.index(name), name) for name in volumes]
        self.collections = None
        self.rows = []

    def EndOfEventAction(self, event):
        if self.collections is None:
            manager = g.G4SDManager.GetSDMpointer()
            self.collections = [
                (k, manager.GetCollectionID(f"{name}/energy")) for k, name in self.volumes
            ]
        i, collected = event.GetEventID(), event.GetHCofThisEvent()
        for volume, collection in self.collections:
            for index, energy in collected.GetHC(collection):
                self.rows.append((i, volume, index, energy))


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
        volumes = ["wafer", "tes"] if setup["tes_mm"] else ["wafer"]
        self.gun, self.events = _Gun(), _EventAction(volumes)
        self.actions = _Actions(self.gun, self.events)
        self.manager.SetUserInitialization(self.actions)
        ui = g.G4UImanager.GetUIpointer()
        for command in ("/process/em/verbose 0", "/process/had/verbose 0", "/run/verbose 0"):
            ui.ApplyCommand(command)
        self.manager.Initialize()
        ui.ApplyCommand("/cuts/setLowEdge 100 eV")
        for region, cut_um in setup["cuts_um"].items():
            ui.ApplyCommand(f"/run/setCutForRegion {region} {cut_um} um")
        self.manager.BeamOn(0)

    def run(self, primaries: np.ndarray, seed: int) -> list[tuple]:
        """Track primaries.

        Parameters
        ----------
        primaries : ndarray, shape (n, 9)
            Charge number (−1: electron), mass number (0: electron), kinetic energy in MeV,
            position in mm, unit direction.
        seed : int
            Geant4's seed, in [1, 2**31).

        Returns
        -------
        list of (primary, volume, cell or TES, deposit in MeV)
            Volume: index in `VOLUMES`. Cell: ``ix * n_cells + iy``.
        """
        self.gun.rows = primaries.tolist()
        g.G4Random.setTheSeed(seed)
        self.manager.BeamOn(len(primaries))
        return self.events.rows
