//! The tree of 8-ID's metadata files (schema 0.1.0) as a table: groups, fields, types, classes, units, defaults.
//!
//! Data only; who writes it and which values replace the defaults is not decided here.

/// The value of a scalar, and so its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(&'static str),
    /// A text that is known only at run time.
    Made(String),
    Float(f64),
    Int(i64),
}

/// A scalar of a group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: Value,
    pub(super) class: &'static str,
    /// Empty = no unit.
    pub(super) unit: &'static str,
    pub(super) description: &'static str,
}

/// A group with its scalars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    pub(super) path: &'static str,
    pub(super) class: &'static str,
    /// Empty = no description.
    pub(super) description: &'static str,
    pub(super) fields: &'static [Field],
}

/// All groups, parents before children.
pub(super) const GROUPS: &[Group] = &[
    group("entry", "NXentry", "", ENTRY),
    group("entry/instrument", "NXinstrument", "XPCS instrument", &[]),
    group("entry/instrument/attenuator_1", "NXattenuator", "attenuator of the first station", ATTENUATOR),
    group("entry/instrument/attenuator_2", "NXattenuator", "attenuator of the second station", ATTENUATOR),
    group("entry/instrument/beam_stop", "NXbeam_stop", "beam stop", BEAM_STOP),
    group("entry/instrument/bluesky", "NXnote", "acquisition by Bluesky", BLUESKY),
    group("entry/instrument/datamanagement", "NXnote", "data management workflow", DATA_MANAGEMENT),
    group("entry/instrument/detector_1", "NXdetector", "area detector", DETECTOR),
    group("entry/instrument/incident_beam", "NXbeam", "incident beam", INCIDENT_BEAM),
    group("entry/instrument/mono_slit", "NXslit", "slit of the monochromatic beam", SLIT),
    group("entry/instrument/monochromator", "NXmonochromator", "monochromator", MONOCHROMATOR),
    group("entry/instrument/sl4", "NXslit", "slit 4", SLIT),
    group("entry/instrument/sl7", "NXslit", "slit 7", SLIT),
    group("entry/instrument/undulator_1", "NXinsertion_device", "upstream undulator", UNDULATOR),
    group("entry/instrument/undulator_2", "NXinsertion_device", "downstream undulator", UNDULATOR),
    group("entry/instrument/wb_slit", "NXslit", "slit of the white beam", SLIT),
    group("entry/sample", "NXsample", "sample, its environment and position", SAMPLE),
    group("entry/user", "NXuser", "user", USER),
];

const ENTRY: &[Field] = &[
    text("schema_version", "0.1.0", "version of this schema"),
    text("definition", "NXxpcs", "NeXus definition that the file follows"),
    text("beamline", "APS-8-ID-I", "beamline"),
    time("start_time", "start of the measurement"),
    time("end_time", "end of the measurement"),
    text("entry_identifier", "simulated", "local identifier of the measurement"),
    text("entry_identifier_uuid", "00000000-0000-0000-0000-000000000000", "UUID of the measurement"),
    int("scan_number", 1, "", "scan number; entry_identifier replaces it"),
];

const ATTENUATOR: &[Field] = &[
    int("attenuator_index", 0, "dim.less", "position"),
    float("attenuator_transmission", 1.0, "dim.less", "transmitted fraction"),
];

const BEAM_STOP: &[Field] = &[
    float("size", 0.004, "m", "size"),
    float("x_position", 0.0, "m", "horizontal position"),
    float("y_position", 0.0, "m", "vertical position"),
];

const BLUESKY: &[Field] = &[
    text("bluesky_plan", "simulate", "plan"),
    text("bluesky_plan_kwargs", "{}", "arguments of the plan"),
    text("bluesky_version", "none", "version of Bluesky"),
    text("parent_folder", "", "folder of the raw data"),
    int("scan_id", 1, "", "scan number"),
    text("spec_file", "", "SPEC log"),
];

const DATA_MANAGEMENT: &[Field] = &[
    text("workflow_kwargs", "{}", "arguments of the workflow"),
    text("workflow_name", "none", "name of the workflow"),
    text("workflow_version", "none", "version of the workflow"),
];

const DETECTOR: &[Field] = &[
    number("beam_center_position_x", 0.0, "m", "horizontal stage position that the beam centre holds for"),
    number("beam_center_position_y", 0.0, "m", "vertical stage position that the beam centre holds for"),
    // The unit is a slip of the schema, kept because readers know it: both are in pixels.
    number("beam_center_x", 0.0, "m", "column of the direct beam, in pixels"),
    number("beam_center_y", 0.0, "m", "row of the direct beam, in pixels"),
    text("compression", "none", "compression of the raw data"),
    number("count_time", 1.0, "s", "exposure of a frame"),
    text("detector_name", "simulated", "detector"),
    number("distance", 1.0, "m", "sample to detector"),
    whole("flightpath_swing", 0, "degree", "horizontal angle of the flight path"),
    whole("flightpath_swing_vertical", 0, "degree", "vertical angle of the flight path"),
    number("frame_time", 1.0, "s", "time between the starts of two frames"),
    number("position_x", 0.0, "m", "horizontal stage position"),
    number("position_y", 0.0, "m", "vertical stage position"),
    text("qmap_file", "", "qmap"),
    number("rotation_x", 0.0, "degree", "rotation around x"),
    number("rotation_y", 0.0, "degree", "rotation around y"),
    number("rotation_z", 0.0, "degree", "rotation around z"),
    number("x_pixel_size", 75e-6, "m", "width of a pixel"),
    number("y_pixel_size", 75e-6, "m", "height of a pixel"),
];

const INCIDENT_BEAM: &[Field] = &[
    float("extent", 1e-5, "m", "size of the beam at the sample"),
    float("incident_beam_intensity", 1.0, "keV", "monitor before the sample"),
    float("incident_energy", 10.0, "keV", "photon energy"),
    float("incident_energy_spread", 1e-4, "keV", "spread of the photon energy"),
    text("incident_polarization_type", "linear_horizontal", "polarization"),
    float("ring_current", 0.0, "mA", "current of the storage ring"),
    float("transmitted_beam_intensity", 1.0, "keV", "monitor behind the sample"),
];

const SLIT: &[Field] = &[
    float("horizontal_center", 0.0, "m", "horizontal centre"),
    float("horizontal_gap", 0.0, "m", "horizontal opening"),
    float("vertical_center", 0.0, "m", "vertical centre"),
    float("vertical_gap", 0.0, "m", "vertical opening"),
];

const MONOCHROMATOR: &[Field] =
    &[float("energy", 10.0, "keV", "photon energy"), float("wavelength", 1.24e-10, "m", "wavelength")];

const UNDULATOR: &[Field] = &[
    float("energy", 10.0, "keV", "photon energy"),
    float("gap", 0.01, "m", "gap"),
    float("taper", 0.0, "m", "difference of the gap between both ends"),
];

const SAMPLE: &[Field] = &[
    number("bk_pid_RDBK", 0.0, "K", "temperature at the BK Precision controller"),
    number("bk_pid_VAL", 0.0, "K", "set temperature of the BK Precision controller"),
    text("full_description", "simulated speckles", "sample in full"),
    axis("huber_chi", "degree", "goniometer angle chi"),
    axis("huber_delta", "degree", "goniometer angle delta"),
    axis("huber_eta", "degree", "goniometer angle eta"),
    axis("huber_mu", "degree", "goniometer angle mu"),
    axis("huber_nu", "degree", "goniometer angle nu"),
    axis("huber_phi", "degree", "goniometer angle phi"),
    axis("huber_x", "m", "goniometer position x"),
    axis("huber_y", "m", "goniometer position y"),
    axis("huber_z", "m", "goniometer position z"),
    number("keithley_chA_MeasRangeI", 0.0, "mA", "source meter, channel A, current range"),
    number("keithley_chA_MeasRangeV", 0.0, "V", "source meter, channel A, voltage range"),
    number("keithley_chA_SrcLevelI", 0.0, "mA", "source meter, channel A, current level"),
    number("keithley_chA_SrcLevelV", 0.0, "V", "source meter, channel A, voltage level"),
    number("keithley_chB_MeasRangeI", 0.0, "mA", "source meter, channel B, current range"),
    number("keithley_chB_MeasRangeV", 0.0, "V", "source meter, channel B, voltage range"),
    number("keithley_chB_SrcLevelI", 0.0, "mA", "source meter, channel B, current level"),
    number("keithley_chB_SrcLevelV", 0.0, "V", "source meter, channel B, voltage level"),
    number("keysight_amp", 0.0, "V", "signal generator, amplitude"),
    number("keysight_burst_count", 0.0, "dim.less", "signal generator, periods of a burst"),
    number("keysight_burst_mode", 0.0, "dim.less", "signal generator, burst mode"),
    number("keysight_burst_state", 0.0, "dim.less", "signal generator, burst on or off"),
    number("keysight_freq", 0.0, "any", "signal generator, frequency"),
    number("keysight_func", 0.0, "dim.less", "signal generator, wave form"),
    number("keysight_output", 0.0, "dim.less", "signal generator, output on or off"),
    number("keysight_phase", 0.0, "dim.less", "signal generator, phase"),
    number("keysight_pulse_width", 0.0, "s", "signal generator, pulse width"),
    number("keysight_trigg_edge", 0.0, "dim.less", "signal generator, edge that triggers"),
    number("keysight_trigg_source", 0.0, "dim.less", "signal generator, source of the trigger"),
    number("lakeshore1", 0.0, "K", "temperature at the Lake Shore controller"),
    axis("position_rheo_x", "m", "rheometer position x"),
    axis("position_rheo_y", "m", "rheometer position y"),
    axis("position_rheo_z", "m", "rheometer position z"),
    axis("position_x", "m", "sample position x"),
    axis("position_y", "m", "sample position y"),
    axis("position_z", "m", "sample position z"),
    number("qnw1_temperature", 0.0, "K", "temperature of cuvette holder 1"),
    number("qnw1_temperature_set", 0.0, "K", "set temperature of cuvette holder 1"),
    number("qnw2_temperature", 0.0, "K", "temperature of cuvette holder 2"),
    number("qnw2_temperature_set", 0.0, "K", "set temperature of cuvette holder 2"),
    number("qnw3_temperature", 0.0, "K", "temperature of cuvette holder 3"),
    number("qnw3_temperature_set", 0.0, "K", "set temperature of cuvette holder 3"),
    number("qnw_lakeshore", 0.0, "K", "second temperature of the cuvette holders"),
    text("short_description", "simulated", "sample in short"),
];

const USER: &[Field] = &[
    text("cycle", "none", "run cycle of the facility"),
    text("email", "none", "mail address"),
    text("institution", "none", "institution"),
    text("name", "speckled simulate", "name"),
    text("proposal_id", "none", "proposal"),
];

const fn group(path: &'static str, class: &'static str, description: &'static str, fields: &'static [Field]) -> Group {
    Group { path, class, description, fields }
}

const fn text(name: &'static str, value: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Text(value), class: "NX_CHAR", unit: "", description }
}

const fn time(name: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Text(""), class: "NX_DATE_TIME", unit: "", description }
}

const fn float(name: &'static str, value: f64, unit: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Float(value), class: "NX_FLOAT", unit, description }
}

const fn number(name: &'static str, value: f64, unit: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Float(value), class: "NX_NUMBER", unit, description }
}

const fn axis(name: &'static str, unit: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Float(0.0), class: "NXpositioner", unit, description }
}

const fn int(name: &'static str, value: i64, unit: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Int(value), class: "NX_INT", unit, description }
}

const fn whole(name: &'static str, value: i64, unit: &'static str, description: &'static str) -> Field {
    Field { name, value: Value::Int(value), class: "NX_NUMBER", unit, description }
}
