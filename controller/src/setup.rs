//! The program's settings, the files that they name, and which of them can change while it runs.

use crate::dev::Sandbox;
use anyhow::{Context, bail};
use cps_peering_config::{
    settings::{ControllerSettings, tls_files},
    time::Zone,
};
use cps_peering_controller::{
    access::{
        operators::Operators,
        rate::{Rate, Rates},
        secret,
    },
    charging::Prices,
    engine::{Options, Pushes, Tolerance, TrailLimits, system_clock},
    hosts::issuer::{AgentIssuer, IssuerError},
    model,
};
use cps_peering_otlp::Recorder;
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// What the program runs with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) settings: ControllerSettings,
    pub(crate) operators: Operators,
    /// With `--dev`: the initial content.
    pub(crate) sandbox: Option<Arc<Sandbox>>,
    pub(crate) prices: Prices,
    /// The time zone of bills.
    pub(crate) zone: Zone,
}

impl Setup {
    /// From a settings file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let settings = read_settings(path)?;
        let files = tls_files(settings.tls.as_ref()).with_context(|| format!("settings file {}", path.display()))?;
        if let Some(renewal) = &settings.agent_certificates {
            if files.is_none() {
                bail!("setting `agent_certificates` needs the table `tls`, and tls is off");
            }
            match AgentIssuer::read(renewal, SystemTime::now()) {
                // Hosts' certificates remain valid for a while, and the rest of the controller does not need the issuer.
                Err(error @ IssuerError::NotValid { .. }) => {
                    tracing::error!(%error, "agents' certificates cannot be renewed");
                }
                read => drop(read.with_context(|| format!("settings file {}", path.display()))?),
            }
        }
        settings.store_key().with_context(|| format!("settings file {}", path.display()))?;
        let operator_token = read_token(&settings.operator_token_file).context("setting `operator_token_file`")?;
        let operators = operators(&settings, &operator_token);
        let operators = operators.with_context(|| format!("settings file {}", path.display()))?;
        let (prices, zone) = (prices(&settings)?, zone(&settings)?);
        Ok(Self { settings, operators, sandbox: None, prices, zone })
    }

    /// For `--dev`. Of a settings file, limits and periods are used.
    pub(crate) fn of_sandbox(path: Option<&Path>, listen: SocketAddr) -> anyhow::Result<Self> {
        let settings = path.map(read_settings).transpose()?;
        let sandbox = Sandbox::new()?;
        let settings = sandbox.settings(listen, settings)?;
        let (operators, prices) = (operators(&settings, sandbox.admin_token())?, prices(&settings)?);
        let zone = zone(&settings)?;
        Ok(Self { settings, operators, sandbox: Some(Arc::new(sandbox)), prices, zone })
    }
}

/// The operators that the settings name, and the unnamed one with this token.
fn operators(settings: &ControllerSettings, token: &str) -> anyhow::Result<Operators> {
    settings.check_operators()?;
    let mut operators = Operators::new(token);
    for operator in &settings.operators {
        let file = operator.token_file.as_deref();
        let token = file.map(read_token).transpose().with_context(|| format!("token of operator {}", operator.name))?;
        operators.add(&operator.name, operator.role, token.as_deref(), &operator.certificate())?;
    }
    Ok(operators)
}

pub(crate) fn prices(settings: &ControllerSettings) -> anyhow::Result<Prices> {
    Prices::new(&settings.prices).context("setting `prices`")
}

fn zone(settings: &ControllerSettings) -> anyhow::Result<Zone> {
    Zone::named(&settings.billing_time_zone).context("setting `billing_time_zone`")
}

pub(crate) fn read_settings(path: &Path) -> anyhow::Result<ControllerSettings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    let settings: ControllerSettings =
        toml::from_str(&text).with_context(|| format!("settings file {}", path.display()))?;
    settings.check().with_context(|| format!("settings file {}", path.display()))?;
    settings.tracing.check().with_context(|| format!("settings file {}", path.display()))?;
    Ok(settings)
}

pub(crate) fn read_token(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let token = secret::read_private(path)?;
    if token.len() < 16 {
        bail!("the token in {shown} is shorter than 16 characters: head -c 24 /dev/urandom | base64 > {shown}");
    }
    Ok(token)
}

pub(crate) fn options(settings: &ControllerSettings) -> Options {
    let ms = |seconds: u64| seconds.saturating_mul(1000);
    Options {
        grace: Duration::from_secs(settings.provisioning_grace_s),
        poll: Duration::from_secs(settings.poll_s.max(1)),
        report_max_age: Duration::from_secs(settings.report_max_age_s),
        limits: model::Limits {
            max_bandwidth: settings.max_bandwidth_mbit,
            unconfirmed_host_removals_percent: settings.unconfirmed_host_removals_percent,
            peerings_per_region: settings.peerings_per_region,
            vpcs_per_region: settings.vpcs_per_region,
            secondary_cidrs_per_region: settings.secondary_cidrs_per_region,
            tags_per_region: settings.tags_per_region,
            client_tokens: settings.client_tokens,
            blocked_accounts: settings.blocked_accounts,
            requests_per_hour: settings.requests_per_account_per_hour,
            bandwidth_changes_per_hour: settings.bandwidth_changes_per_hour,
            pending_ms: ms(settings.request_expires_s),
            ended_ms: ms(settings.ended_kept_s),
            arrear_ms: ms(settings.arrear_kept_s),
            ..model::Limits::default()
        },
        audit_kept: Duration::from_secs(settings.audit_kept_s),
        trail: TrailLimits { total: settings.audit_max_mb << 20, each: settings.audit_account_max_mb << 20 },
        store_reserve: settings.store_reserve_mb.saturating_mul(1 << 20),
        clock: system_clock(),
        tolerance: Tolerance {
            leap_ms: ms(settings.clock_leap_s),
            believed_after_ms: ms(settings.clock_believed_after_s),
        },
        overlap_checks_per_day: settings.overlap_checks_per_day,
        pushes: Pushes {
            canary_hosts: settings.pushes.canary_hosts.try_into().unwrap_or(usize::MAX),
            canary_above: settings.pushes.canary_above.try_into().unwrap_or(usize::MAX),
            canary_watch: Duration::from_secs(settings.pushes.canary_watch_s),
            canary_patience: Duration::from_secs(settings.pushes.canary_patience_s),
        },
        // Created once, where the program serves.
        recorder: Recorder::default(),
    }
}

pub(crate) fn rates(settings: &ControllerSettings) -> Rates {
    Rates {
        requests: Rate::new(settings.requests_per_s, Duration::from_secs(1), settings.requests_burst),
        failures: Rate::new(settings.failures_per_min, Duration::from_mins(1), settings.failures_burst),
    }
}

/// The settings that differ and cannot change while the controller runs. Every setting is named here, so that none is forgotten.
pub(crate) fn fixed(old: &ControllerSettings, new: &ControllerSettings) -> Vec<&'static str> {
    let ControllerSettings {
        listen,
        metrics_listen,
        tls,
        store,
        store_key_file,
        etcd,
        agent_certificates,
        poll_s,
        bodies_mib,
        connections,
        log_format,
        tracing,
        // Reloaded, and effective from then on.
        operator_token_file: _,
        operators: _,
        delete_wait_ms: _,
        provisioning_grace_s: _,
        report_max_age_s: _,
        max_bandwidth_mbit: _,
        unconfirmed_host_removals_percent: _,
        peerings_per_region: _,
        vpcs_per_region: _,
        secondary_cidrs_per_region: _,
        tags_per_region: _,
        client_tokens: _,
        blocked_accounts: _,
        requests_per_account_per_hour: _,
        bandwidth_changes_per_hour: _,
        request_expires_s: _,
        ended_kept_s: _,
        arrear_kept_s: _,
        audit_kept_s: _,
        audit_max_mb: _,
        audit_account_max_mb: _,
        store_reserve_mb: _,
        requests_per_s: _,
        requests_burst: _,
        failures_per_min: _,
        failures_burst: _,
        overlap_checks_per_day: _,
        clock_leap_s: _,
        clock_believed_after_s: _,
        billing_time_zone: _,
        webhooks_allowed: _,
        webhooks_refused: _,
        currency: _,
        pushes: _,
        prices: _,
    } = old;
    let differs = [
        ("listen", *listen != new.listen),
        ("metrics_listen", *metrics_listen != new.metrics_listen),
        ("tls", *tls != new.tls),
        ("agent_certificates", *agent_certificates != new.agent_certificates),
        ("store", *store != new.store),
        ("store_key_file", *store_key_file != new.store_key_file),
        ("etcd", *etcd != new.etcd),
        ("poll_s", *poll_s != new.poll_s),
        ("bodies_mib", *bodies_mib != new.bodies_mib),
        ("connections", *connections != new.connections),
        ("log_format", *log_format != new.log_format),
        ("tracing", *tracing != new.tracing),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}
